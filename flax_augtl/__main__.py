"""The program behind `flax-augtl`, `python -m flax_augtl` and `python main.py`, which take the same flags."""

import os
import sys

# Before JAX is imported: its messages about missing accelerators are noise to most users.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from ml_collections import config_flags

from flax_augtl import guide

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", help_string="Configuration: a file, or the name of a shipped one.")
flags.DEFINE_string("workdir", None, "Directory of the run.")
flags.DEFINE_enum("mode", "train", guide.MODES, "What to do.")
flags.DEFINE_bool("extend", False, "train: continue a run whose lengths or schedule the config changes.")
flags.DEFINE_bool("dry_run", False, "train, study: print the plan and its cost, then stop.")
flags.DEFINE_string("cells", "", "study: do only part i/n of the trials that choose, such as 1/4.")
flags.DEFINE_string("split", "test", "evaluate: train, val, test, or, with --data_root, all.")
flags.DEFINE_string("data_root", None, "train, evaluate, inspect, export: where the data of a run are now.")
flags.DEFINE_string("step", "best", "evaluate, predict, embed, export: best, last, or the number of a step.")
flags.DEFINE_string("images", None, "predict, embed: an image, a folder, or a pattern such as 'photos/*.jpg'.")
flags.DEFINE_string("output", None, "evaluate, predict, embed: the file to write; by default one in WORKDIR.")
flags.DEFINE_enum("views", "one", ("one", "flip", "ten_crop"), "evaluate, predict: average over views of each image.")
flags.DEFINE_bool("calibrate", False, "evaluate: fit temperature and familiarity again, on the validation images.")
flags.DEFINE_float(
    "unknown_below", 0.05, "predict: mark images of a lower familiarity as unknown.", lower_bound=0.0, upper_bound=1.0
)
flags.DEFINE_bool("explain", False, "predict: draw what speaks for each prediction, into WORKDIR/explanations.")
flags.DEFINE_integer("neighbours", 0, "predict: name so many of the most similar training images.", lower_bound=0)
flags.DEFINE_string("layer", None, "embed: a layer group such as layer4; by default the last before the classifier.")
flags.DEFINE_bool("pooled", True, "embed: average over the places of an image.")
flags.DEFINE_integer(
    "max_pixels", None, "predict, embed: the most pixels of an image; by default as in training.", lower_bound=1
)
flags.DEFINE_string("format", "safetensors", "export: safetensors, onnx or stablehlo.")
flags.DEFINE_string("input", "uint8", "export: what a program takes: uint8, or float, which is normalised.")
flags.DEFINE_string("outputs", "probabilities", "export: some of probabilities,logits,features,familiarity.")
flags.DEFINE_string("weights", "float32", "export: how weights are stored: float32, bfloat16 or float16.")
flags.DEFINE_string("push_to_hub", None, "export: USER/NAME of a repository on the Hugging Face Hub.")
flags.DEFINE_bool("profile", False, "train: write a trace of some steps into WORKDIR/profile.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where several processes share a run.")
flags.DEFINE_integer("num_processes", None, "How many processes share the run.")
flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
flags.DEFINE_bool("traceback", False, "Show where in the program an error came from.")


def parse(argv: list[str]) -> list[str]:
    """Parse the flags; an error in them ends the program with a sentence."""
    from flax_augtl import cli  # Imports JAX, which takes seconds.

    try:
        left = cli.parse(FLAGS, argv)
    except Exception as error:  # Config files are code, and raise what they like.
        cli.exit_with(error, "--traceback" in argv)
    if left[1:]:
        print(f"error: Not understood: {' '.join(left[1:])}. Flags are written --name=value.", file=sys.stderr)
        sys.exit(1)
    return left


def run(argv: list[str]) -> None:
    """Run the mode that the flags say."""
    from flax_augtl import cli

    cli.run(FLAGS)


def main() -> None:
    """Run the program that the command line asks for."""
    if len(sys.argv) == 1 or {"--help", "-help", "-h", "--helpshort", "-helpshort"} & {*sys.argv[1:]}:
        _print_guide()
        return
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # For config files that import their neighbours.
    from flax_augtl.runtime import library_noise

    # Libraries also print what they log to this handler, or raise it.
    logging.set_verbosity(logging.ERROR)
    logging.get_absl_handler().setLevel("ERROR" if "--traceback" in sys.argv else "CRITICAL")
    sys.unraisablehook = library_noise.hook
    sys.exit(app.run(run, flags_parser=parse))


def _print_guide() -> None:
    """Print the guide; with --help, the flags too."""
    program = guide.program_name(sys.argv[0])
    print(guide.text(program))
    if len(sys.argv) == 1:
        print(f"\nEvery flag: {program} --help")
    else:
        module = FLAGS.find_module_defining_flag("workdir")
        print("\nFlags:\n" + FLAGS.module_help(module).strip().partition("\n")[2])


if __name__ == "__main__":
    main()
