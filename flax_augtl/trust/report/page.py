"""The page of a report: one file that needs no network and runs no script."""

from flax_augtl.runtime.markup import Markup, document, element, join, paragraph, section
from flax_augtl.trust.report import sections as of
from flax_augtl.trust.report.subject import Subject


def sections(subject: Subject) -> list[tuple[str, Markup]]:
    """Return the title and the HTML of every section, in order; to add a section, add a line."""
    return [
        ("Verdict", of.verdict(subject)),
        ("Learning curves", of.curves(subject)),
        ("Metrics", of.metrics(subject)),
        ("Confusion", of.confusion(subject)),
        ("Most confident errors", of.errors(subject)),
        ("Calibration", of.reliability(subject)),
        ("Unknown images", of.unknown(subject)),
        ("Labels and odd images", of.inspection(subject)),
        ("Classes", of.classes(subject)),
        ("Data", of.data(subject)),
        ("Cost and versions", of.cost(subject)),
        ("Config", of.config(subject)),
    ]


def page(subject: Subject) -> str:
    """Return the report as HTML."""
    title = f"{subject.name}: {of.NAMES[subject.split]} images"
    freeze = subject.config.get("freeze", "none")
    frozen = "nothing frozen" if freeze == "none" else f"frozen up to {freeze}"
    head = (subject.config.get("head") or {}).get("preset", "")
    what = f"{subject.config.get('network', '')}, head {head}, {frozen}; weights of step {subject.step}."
    header = element("header", join(element("h1", title), paragraph(what)))
    return document(title, join(header, *(section(name, content) for name, content in sections(subject))))
