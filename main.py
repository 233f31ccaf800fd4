"""Fine-tune pretrained networks: `python main.py --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]`."""

from flax_augtl.__main__ import FLAGS, main

__all__ = ["FLAGS", "main"]

if __name__ == "__main__":
    main()
