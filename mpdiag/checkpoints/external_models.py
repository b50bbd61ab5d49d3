"""Models that other libraries run: transformers, and the official models of detectron2.

Models of transformers are loaded from local files, without remote code.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from torch import nn

from mpdiag.checkpoints.checksums import files_sha256, parameters_sha256
from mpdiag.checkpoints.transformers_directory import (
    CONFIG,
    PREPROCESSOR,
    read_json,
    read_weight_files,
    weight_files,
)
from mpdiag.config import MAX_SIDE, abbreviate
from mpdiag.errors import CheckpointError
from mpdiag.extras import import_optional
from mpdiag.printable import printable
from mpdiag.recording import TransformersFamily, transformers_families
from mpdiag.recording.family import is_instance_by_name

NAMES_SHOWN = 4  # of parameters in an error
_MAX_SETTING, _MAX_BUFFERS = 2**20, 2**24
_COUNTED = re.compile("layers|depths|blocks|stages")  # each has an entry of its own
_SIDES = {"shortest_edge", "longest_edge", "height", "width", "image_size", "size"}
_DESCRIPTIVE = {"id2label", "label2id", "mpdiag"}
_PROCESSOR = "processor_config.json"  # of an image processor and a tokenizer together


@dataclass(frozen=True, slots=True)
class ExternalModel:
    """A model that another library runs, in evaluation mode.

    Attributes:
        name: its path, or the name of its class.
        sha256: checksum of its weight files, or of its parameters if it was given as a module.
        module: the model.
        processor: image processor of transformers; None for an official model of detectron2, which
            preprocesses its images itself.
    """

    name: str
    sha256: str
    module: nn.Module
    processor: Any = None

    @classmethod
    def load(cls, directory: Path, model_type: str) -> "ExternalModel":
        """Load a directory that `save_pretrained` of transformers wrote.

        Raises:
            CheckpointError: no family has this model type, a file is missing or unreadable, or
                parameters are missing or have other shapes.
            UnsafeCheckpointError: reading the weights would run code.
            DependencyError: transformers is not installed.
        """
        family = _family(model_type, str(directory / CONFIG))
        files = weight_files(directory)
        module = _load_module(directory, family.model_classes[model_type], files)
        processor = load_processor(directory, family)
        return cls(str(directory), files_sha256(files), module, processor)

    @classmethod
    def wrap(cls, module: nn.Module, processor: Any = None) -> "ExternalModel":
        """Wrap a module of detectron2 or transformers.

        Without `processor`, a module of transformers gets that of the directory from which it was
        loaded.

        Raises:
            CheckpointError: the module is of no known family, or its image processor is not found.
        """
        name, config = type(module).__name__, getattr(module, "config", None)
        if is_instance_by_name(module, "mask2former", "MaskFormer"):
            return cls(f"official {name}", parameters_sha256(module), module.eval())
        families = transformers_families().values()
        family = next((family for family in families if family.matches(module)), None)
        if family is None or config is None:
            raise CheckpointError(
                f"{name}: is no Mask2Former of mpdiag and no model of transformers or detectron2 "
                "that can be analysed; give it and its preprocessing as mpdiag.CustomModel"
            )
        if processor is None:
            directory = Path(str(config.name_or_path or ""))
            if not _has_processor(directory):
                raise CheckpointError(
                    f"{name}: its image processor is unknown; give processor=..., for example from "
                    "AutoImageProcessor.from_pretrained"
                )
            processor = load_processor(directory, family)
        return cls(name, parameters_sha256(module), module.eval(), processor)


def _load_module(directory: Path, class_name: str, files: Sequence[Path]) -> nn.Module:
    library = import_transformers()
    state = read_weight_files(files)
    source = str(directory / CONFIG)
    _check_settings(read_json(directory / CONFIG), len(state), source)
    model_class = getattr(library, class_name)
    try:
        with isolate(library):
            config = library.AutoConfig.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
            if hasattr(config, "use_pretrained_backbone"):
                config.use_pretrained_backbone = False  # transformers 4 would download it
            with torch.device("meta"):
                size = _num_elements(model_class(config))
            if size > 4 * sum(tensor.numel() for tensor in state.values()) + _MAX_BUFFERS:
                raise ValueError(f"its settings require {size:,} numbers, the weights have fewer")
            module, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # rejected below, by name
                dtype=torch.float32,
            )
    except Exception as error:  # invalid settings can fail in any way
        raise CheckpointError(
            f"{source}: transformers can't build its {class_name} ({_first_line(error)}); give the "
            "config.json of this model"
        ) from error
    # A mismatched key comes with the two shapes.
    wrong = sorted(report["missing_keys"]) + sorted(str(x[0]) for x in report["mismatched_keys"])
    if wrong:
        raise CheckpointError(
            f"{directory}: does not hold the weights of a {class_name}: {len(wrong)} parameters "
            f"are missing or have another shape ({', '.join(wrong[:NAMES_SHOWN])})"
        )
    model: nn.Module = module.eval()
    return model


def _check_settings(settings: Any, num_entries: int, source: str) -> None:
    """Check a config.json for sizes that no model with `num_entries` parameters has.

    Raises:
        CheckpointError: there are more layers than entries, a very large number, or a backbone
            that is not in timm's registry, and that would be downloaded or read from a folder.
    """
    total = 0.0  # layers, blocks and stages of all parts of the model
    for key, value in _values(settings):
        if isinstance(value, str):
            if key in ("backbone", "architecture") and not timm.is_model(value):
                raise CheckpointError(
                    f"{source}: {key} = {abbreviate(value)} is not a model of timm; give a "
                    "config.json with backbone_config"
                )
            continue
        counted = _COUNTED.search(key) is not None
        maximum = num_entries if counted else MAX_SIDE if key in _SIDES else _MAX_SETTING
        possible = (0 if counted else -maximum) <= value <= maximum
        total += value if possible and counted else 0
        if not possible or total > num_entries:
            what = f"{total:,.0f} layers with {key}" if possible else f"{key} = {value}"
            raise CheckpointError(
                f"{source}: {what}, but at most {maximum:,} is possible for this model; give the "
                "file that was saved with the model"
            )


def _values(settings: Any, key: str = "") -> Iterator[tuple[str, str | float]]:
    """Yield keys of a config.json with their texts and numbers, and with the lengths of lists."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if name not in _DESCRIPTIVE:
                yield from _values(value, name)
    elif isinstance(settings, list):
        for value in (len(settings), *settings):
            yield from _values(value, key)
    elif isinstance(settings, str | int | float):
        yield key, settings


def _num_elements(module: nn.Module) -> int:
    return sum(x.numel() for values in (module.parameters(), module.buffers()) for x in values)


def load_processor(directory: Path, family: TransformersFamily) -> Any:
    """Load the image processor of a directory, with its tokenizer if the family needs one.

    Raises:
        CheckpointError: the files are missing or unreadable.
        DependencyError: transformers is not installed.
    """
    library = import_transformers()
    if not _has_processor(directory):
        raise CheckpointError(
            f"{directory / PREPROCESSOR}: no such file; save the image processor of the model there"
        )
    for file in filter(Path.is_file, (directory / PREPROCESSOR, directory / _PROCESSOR)):
        _check_settings(read_json(file), _MAX_SETTING, str(file))
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        with isolate(library):
            images = library.AutoImageProcessor.from_pretrained(
                directory, **local, **family.processor_options
            )
            if family.text_processor is None:
                return images
            tokenizer = library.AutoTokenizer.from_pretrained(directory, **local)
            length = read_json(directory / CONFIG).get("task_seq_len", 77)
            return getattr(library, family.text_processor)(
                images, tokenizer, task_seq_length=length
            )
    except Exception as error:  # invalid settings can fail in any way
        raise CheckpointError(
            f"{directory}: transformers can't read its preprocessing ({_first_line(error)}); save "
            "the image processor of the model there"
        ) from error


def _has_processor(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (PREPROCESSOR, _PROCESSOR))


def _family(model_type: str, source: str) -> TransformersFamily:
    families = transformers_families()
    if model_type not in families:
        raise CheckpointError(
            f"{source}: model_type = {abbreviate(model_type)} is not supported; supported are "
            f"{', '.join(families)}"
        )
    return families[model_type]


def import_transformers() -> Any:
    """Import transformers.

    Raises:
        DependencyError: it is not installed.
    """
    return import_optional("transformers", "this model")


@contextmanager
def isolate(library: Any) -> Iterator[None]:
    """Turn off requests to the hub, log messages and progress bars of transformers."""
    log, hub = library.utils.logging, huggingface_hub.constants
    level, bars, offline = log.get_verbosity(), log.is_progress_bar_enabled(), hub.HF_HUB_OFFLINE
    log.set_verbosity_error()
    log.disable_progress_bar()
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
