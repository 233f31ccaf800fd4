"""A section of a page that shows images beside what speaks for a class."""

from collections.abc import Sequence

import numpy as np

from flax_augtl.runtime.markup import Markup, element, join, paragraph, picture
from flax_augtl.trust import overlays
from flax_augtl.trust.evidence import compiled_evidence, is_exact
from flax_augtl.trust.penultimate import Trained
from flax_augtl.trust.thumbnails import SIDE, data_uri


def evidence_section(
    trained: Trained, images: np.ndarray, classes: np.ndarray, captions: Sequence[object]
) -> tuple[str, Markup]:
    """Return the title and the HTML of a section with evidence maps; empty without images.

    Args:
      trained: a `Run`, or anything else that has a network, its preprocessing and its variables.
      images: uint8 [N, S, S, 3], as the network reads them.
      classes: int [N], the class whose evidence is drawn, such as the predicted one.
      captions: a text for each image; what is no `Markup` is escaped.
    """
    title = "What speaks for the predictions"
    if not len(images):
        return title, Markup("")
    found = compiled_evidence(trained.network, trained.preprocessing)(trained.variables, images, np.asarray(classes))
    figures = [
        element(
            "figure",
            join(picture(data_uri(overlays.beside(image, overlays.overlay(image, one)), 2 * SIDE), ""),
                 element("figcaption", caption)),
        )
        for image, one, caption in zip(images, np.asarray(found), captions, strict=True)
    ]  # fmt: skip
    kind = "Class activation maps" if is_exact(trained.network) else "Grad-CAM"
    text = f"{kind}: red to yellow places speak for the predicted class."
    return title, join(paragraph(text, "note"), element("div", join(*figures), {"class": "figures small"}))
