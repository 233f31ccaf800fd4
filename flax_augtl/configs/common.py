"""Every field of a configuration, once, with its default. The other files here change some of them.

    python main.py --config=configs/common.py --config.data.root=FOLDER --workdir=DIR

trains the default network from scratch on a folder of pictures; see `folder.py` for pretrained weights.
"""

from ml_collections import config_dict

placeholder = config_dict.placeholder


def get_config() -> config_dict.ConfigDict:
    """Return the defaults, locked: a field that is not here cannot be set by mistake."""
    config = config_dict.ConfigDict()

    # Name of the experiment, in result.json.
    config.name = "common"
    # Fixes the validation split, the shots, the initial new layers and the order of the examples; not the test split.
    config.seed = 0
    # Source network: resnet18, 34, 50, 101, 152; vgg11, 13, 16, 19, also with _bn; resnet20, 32, 44, 56, 110 (32 px).
    config.network = "resnet18"
    # Pretrained weights: a file, a folder, an address (https://...), an id on the Hugging Face Hub such as
    # timm/resnet18.tv_in1k; None = from scratch.
    config.weights = placeholder(str)
    # Which network of a file that holds several, such as state_dict; raw = not an average; None = the average, if any.
    config.weights_entry = placeholder(str)
    # Expected SHA-256 of the weights file, 64 hexadecimal digits; None = not checked.
    config.weights_sha256 = placeholder(str)

    # What is stacked on the source network. A preset is a row of the table in the README; the other fields override it.
    config.head = config_dict.ConfigDict()
    config.head.preset = "kept_deeper"
    # Is the pretrained classification layer kept?
    config.head.keep_classifier = placeholder(bool)
    # Widths of new layers, e.g. (), (1024,), (2048, 1024): depth augmentation.
    config.head.new_layers = placeholder(tuple)
    # Number of units in parallel to the topmost layer that is kept of the source network: width augmentation.
    config.head.widen = placeholder(int)
    # At the input of every new layer: none, l2, batch, layer.
    config.head.norm = placeholder(str)
    # Initial gamma of the l2 norm.
    config.head.scale = placeholder(float)
    # Weights of the kept classification layer: pretrained, and, as controls, random, shuffled.
    config.head.classifier_init = placeholder(str)
    # The kept classification layer learns at the rate of the "pretrained" or of the "new" layers.
    config.head.classifier_rate = placeholder(str)
    # The target classifier starts from "zero", or, where it reads the kept layer, from LEEP's predictor: "leep".
    config.head.classifier_init_from = placeholder(str)
    # Probability with which an activation between new layers is dropped.
    config.head.dropout = placeholder(float)

    # The topmost frozen layer group (stem, layer1, ..., fc; conv1, ..., fc8) or residual block (layer3.0), or none, or
    # all (all but the head).
    config.freeze = "none"

    config.data = config_dict.ConfigDict()
    # folder, list, digits, glyphs, or the name of a TFDS data set.
    config.data.name = "folder"
    # Of `folder`: train/ val/ test/ with a folder a class each, or one folder a class. Of `list`: what paths are
    # relative to. Of a TFDS data set: its data_dir; None = TFDS's own.
    config.data.root = placeholder(str)
    # How a folder is read: 2 as docs/data.md says; 1 as earlier versions did, with which their runs go on.
    config.data.folder_rules = 2
    # Of `list`: files of path and label (text, CSV or TSV), one a split, and optionally one of class names in order.
    config.data.train_list = placeholder(str)
    config.data.val_list = placeholder(str)
    config.data.test_list = placeholder(str)
    config.data.class_list = placeholder(str)
    # Of `list`: the columns of the path, the label and the split, by heading or by number from 1; None = by their
    # headings, "" = the folder is the label, there is no split.
    config.data.path_column = placeholder(str)
    config.data.label_column = placeholder(str)
    config.data.split_column = placeholder(str)
    # How lists are read: 2 = as docs/data.md says; 1 = as the first version did, for runs that began with it.
    config.data.list_rules = 2
    # Share of each class to train with, such as 0.15, 0.3, 0.5; smaller shares are parts of larger ones.
    config.data.rate = 1.0
    # Examples a class to train with, validation included; None = all.
    config.data.shots = placeholder(int)
    # Test split where the data have none: a share in (0, 1) or a number of examples.
    config.data.test = 0.2
    # Which examples that test split has, and how folds are divided: one for all seeds.
    config.data.split_seed = 0
    # Images that stay in one split, such as those of one patient: a column of a list, or a regular expression with one
    # group that is searched in the path, such as "(patient[0-9]+)_"; None = each image stands for itself.
    config.data.group = placeholder(str)
    # Cross-validation: the training data in so many parts, each of which is the test split once; 0 = none.
    config.data.folds = 0
    # Which of them is the test split, from 0; None = each in turn, in WORKDIR/fold0 and so on.
    config.data.fold = placeholder(int)
    # Validation split, taken from the training data: a share in (0, 1), a number of examples, or 0 for none.
    config.data.validation = 0.2
    # What validation chooses by: top1, mean_per_class; None = what the literature reports for the data set, or top1.
    config.data.metric = placeholder(str)
    # Pictures that cannot be read: error, or skip (counted, and listed in the run directory).
    config.data.on_bad_image = "error"
    # An image with more pixels (width × height) is one that cannot be read. Decoded, a pixel takes three bytes or more.
    config.data.max_pixels = 178_956_970
    # Pictures of the test split that are in the training data too: warn, drop (from training), error.
    config.data.on_leak = "warn"
    # Training images that are equal but have different labels: warn, drop (all of them), error, ignore; None = as
    # on_leak.
    config.data.on_conflict = placeholder(str)
    # Images that are re-encoded, resized, mirrored or slightly changed copies of test images: warn, drop, error,
    # ignore.
    config.data.near_copies = "warn"
    # Where the results of scanning pictures are kept; None = the user's cache folder, "" = nowhere.
    config.data.scan_dir = placeholder(str)
    # Views of an example that training draws from; 0 = a fresh one in every epoch.
    config.data.views = 0
    # Of the random crops, flips and shifts; not the run's seed, so that runs of different seeds can share views.
    config.data.view_seed = 0
    # Training crop: resized (RandomResizedCrop), random (resize, then a random crop), none (the evaluation transform).
    config.data.crop = "resized"
    # Of `resized`: smallest and largest share of the picture's area.
    config.data.crop_scale = (0.25, 1.0)
    # Mirror images at random: none, horizontal (left and right), both (also top and bottom).
    config.data.flip = config_dict.FieldReference("horizontal", field_type=object)
    # Rotate images at random: largest angle in degrees, each way; or right_angles, for images that have no upright.
    config.data.rotate = config_dict.FieldReference(0.0, field_type=object)
    # Largest random shift in pixels; 0 = none.
    config.data.shift = 0
    # Largest standard deviation of a random Gaussian blur, in pixels; 0 = none.
    config.data.blur = 0.0
    # Changes of colour and shape on the host: none, rand (RandAugment), trivial (TrivialAugment).
    config.data.policy = "none"
    # Brightness, contrast and saturation each change by a factor of up to 1 ± this.
    config.data.jitter = 0.0
    # Probability that a rectangle of a picture is erased.
    config.data.erase = 0.0
    # Alpha of mixup and of CutMix; 0 = off.
    config.data.mixup = 0.0
    config.data.cutmix = 0.0
    # Threads that decode pictures; or so many worker processes, which then do it instead (0 = threads).
    config.data.threads = 8
    config.data.workers = 0
    # Remember decoded pictures: none; auto; memory (of the host); file (a scratch file in cache_dir); device (the
    # training split lives on the device, and is cropped there).
    config.data.cache = "none"
    # Gigabytes that the cache may take.
    config.data.cache_gb = 4.0
    config.data.cache_dir = placeholder(str)

    # Side of the pictures in pixels; None = what the weights were trained with.
    config.image_size = placeholder(int)
    # What pictures become on their way to the network, where it shall differ from what the weights bring along.
    config.preprocessing = config_dict.ConfigDict()
    # Before the crop: short_side (keeps the shape), squash (to a square, whatever the shape), none.
    config.preprocessing.resize = placeholder(str)
    # Side of the crop as a share of the short side of the resized picture, in (0, 1].
    config.preprocessing.crop_fraction = placeholder(float)
    # nearest, bilinear, bicubic, lanczos, box, hamming.
    config.preprocessing.interpolation = placeholder(str)
    # RGB, BGR.
    config.preprocessing.channel_order = placeholder(str)
    # What the brightest pixel is before the mean is taken off: 1.0, 255.0.
    config.preprocessing.value_range = placeholder(float)
    # Of the three channels.
    config.preprocessing.mean = placeholder(tuple)
    config.preprocessing.std = placeholder(tuple)
    # Pictures in a step, over all devices.
    config.batch_size = 64
    # Micro-batches into which a device's share of the batch is cut, to save memory.
    config.accumulate = 1
    # Length of the run; one of the three.
    config.steps = placeholder(int)
    config.epochs = placeholder(float)
    config.examples = placeholder(int)

    # Of pretrained layers at its highest.
    config.learning_rate = 0.003
    # Learning rate of new layers over that of pretrained ones.
    config.new_layer_multiplier = 10.0
    # sgd (Nesterov momentum), adamw.
    config.optimizer = "sgd"
    config.momentum = 0.9
    # Of kernels; not of biases, norms and scales.
    config.weight_decay = 5e-4
    # Largest norm of the gradient; 0 = no limit.
    config.gradient_clip = 0.0
    # Share of the probability that is spread evenly over all classes.
    config.label_smoothing = 0.0
    # Weight of each class in the loss, in the order of the class names; None = equal ones.
    config.class_weights = placeholder(tuple)
    # Weight the classes so that each counts the same in the loss, however many examples it has.
    config.balance_classes = False

    config.schedule = config_dict.ConfigDict()
    # cosine, step, constant.
    config.schedule.name = "cosine"
    # Linear rise of the learning rate at the start; one of the three.
    config.schedule.warmup_steps = placeholder(int)
    config.schedule.warmup_epochs = placeholder(float)
    config.schedule.warmup_examples = placeholder(int)
    # Of `cosine`: the last learning rate as a share of the highest.
    config.schedule.final = 0.0
    # Of `step`: where the learning rate is multiplied by `factor`; one of the three.
    config.schedule.boundaries_steps = ()
    config.schedule.boundaries_epochs = ()
    config.schedule.boundaries_examples = ()
    config.schedule.factor = 0.1

    # Evaluation on the validation split, and a checkpoint; one of the three; none = at the end of every epoch.
    config.evaluate_every_steps = placeholder(int)
    config.evaluate_every_epochs = placeholder(float)
    config.evaluate_every_examples = placeholder(int)
    # Further checkpoints between evaluations; one of the three; none = no further ones.
    config.checkpoint_every_steps = placeholder(int)
    config.checkpoint_every_epochs = placeholder(float)
    config.checkpoint_every_examples = placeholder(int)
    # Newest checkpoints to keep, besides the best; at least 2.
    config.keep_checkpoints = 2
    # Stop after so many evaluations without a better one; 0 = never.
    config.early_stopping = 0
    # A loss or gradient that is not finite: stop; skip (the update is left out); restore (back to the last checkpoint,
    # and on with the data behind that batch).
    config.on_nan = "stop"
    # Of skip and restore: how often, before the run stops after all.
    config.on_nan_limit = 10
    # Steps between two rows of the training loss in metrics.jsonl.
    config.log_every_steps = 10

    # float32, bfloat16; parameters are float32 in any case.
    config.compute_dtype = "float32"
    # Compute activations a second time for the backward pass instead of keeping them: less memory, more time.
    config.remat = False
    # Steps between two checks that the state is the same on every device of every host, for debugging; 0 = never.
    config.check_replicas_every = 0

    # {name: {field: value, ...}, ...}: train once for each, in WORKDIR/name, and print their results side by side.
    config.variants = config_dict.ConfigDict()
    config.study = config_dict.ConfigDict()
    # Mode study. What it compares: quick, paper, controls, full; "" = only what the next fields say. A field that is
    # given takes the place of what the preset decides; None leaves it to the preset (docs/study.md).
    config.study.preset = "quick"
    # Minutes that the study may take, over all of its starts; 0 = no limit. None = 10 for the preset quick, 0 for
    # others.
    config.study.minutes = placeholder(float)
    # Further heads, beside those of the preset, by the name of their preset, or scratch: the traditional one on random
    # weights.
    config.study.heads = placeholder(tuple)
    # Further heads as {name: {field of config.head: value, ...}, ...}.
    config.study.own_heads = config_dict.ConfigDict()
    # Freeze depths: the topmost frozen layer group, none, all; None = every one; ("blocks",) = every residual block.
    config.study.depths = placeholder(tuple)
    # Learning rates that every head is tried with at every depth; if the lowest or highest is the best, further ones
    # are tried. None = 0.0003, 0.001, 0.003, 0.01, 0.03.
    config.study.learning_rates = placeholder(tuple)
    # Seeds, shared by all heads; how many of them choose (0 = all). Fewer than six show no significance. None = the
    # seed 0 for the preset quick, six for the others.
    config.study.seeds = placeholder(tuple)
    config.study.selection_seeds = placeholder(int)
    # How the grid is searched: grid (all of it), halving (fewer and longer trainings, step by step), budget (from the
    # depth all downwards, by halving, while config.study.minutes last). None = budget where there are minutes, else
    # grid.
    config.study.search = placeholder(str)
    # What is trained on training and validation data together, and tested: the depth that validation chose for each
    # head (winners), or every depth of each head (depths). None = winners.
    config.study.finals = placeholder(str)
    # Views of an image to train with, where config.data.views = 0. None = 4, or fewer where the time budget is short.
    config.study.views = placeholder(int)
    # Kept activations: auto, file (below the workdir), memory, none; gigabytes of them; gigabytes on the device at a
    # time; float32, bfloat16.
    config.study.cache = "auto"
    config.study.cache_gb = 8.0
    config.study.device_gb = 4.0
    config.study.cache_dtype = "float32"
    # Cells that are trained at once under vmap where the layers that train are dense, or on an accelerator; 0 = by a
    # timing.
    config.study.together = 0
    # Seconds between two checkpoints within cells, and after which the cells of a worker that fell silent are taken
    # over.
    config.study.checkpoint_seconds = 30.0
    config.study.lease_seconds = 60.0
    return config.lock()
