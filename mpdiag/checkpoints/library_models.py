"""Segmenters that transformers itself runs: its module and image processor, from files alone.

No code comes with them: the classes are those that transformers has for a model type, and weights
are read by ourselves.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.checkpoints.reading import read_state
from mpdiag.checkpoints.transformers_form import CONFIG, PREPROCESSOR, read_json
from mpdiag.errors import CheckpointError, DependencyError

CLASSES = {
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "maskformer": "MaskFormerForInstanceSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
    "eomt": "EomtForUniversalSegmentation",
    "eomt_dinov3": "EomtDinov3ForUniversalSegmentation",
    "detr": "DetrForSegmentation",
    "conditional_detr": "ConditionalDetrForSegmentation",
    "rf_detr": "RfDetrForInstanceSegmentation",
}
"""transformers' model type -> its class that segments by queries."""

NAMES_SHOWN = 4  # of parameters in an error
_PROCESSOR = "processor_config.json"  # of an image processor and a tokenizer together
_WEIGHTS = ("model", "pytorch_model")  # file.safetensors, file.bin, or shards with an index


@dataclass(frozen=True, slots=True)
class LibraryModel:
    """Another library's module, ready to run, with its preprocessing.

    Attributes:
        name: how run.json and errors call it: a path, or the module's class.
        sha256: of its weights' file; of several, of all in the order of their names; of a module
            that was given as it is, of its parameters.
        module: in evaluation mode.
        processor: transformers' image processor, OneFormer's with its tokenizer.
    """

    name: str
    sha256: str
    module: nn.Module
    processor: Any

    @property
    def settings(self) -> dict[str, Any]:
        """Of the module, as its config.json has them."""
        found: dict[str, Any] = json.loads(self.module.config.to_json_string(use_diff=False))  # type: ignore[union-attr, operator]
        return found

    @property
    def labels(self) -> list[str] | None:
        """Name of each class in the order of the logits, None where it only numbers them."""
        names = {int(index): name for index, name in self.settings["id2label"].items()}
        if all(name == f"LABEL_{index}" for index, name in names.items()):
            return None
        return [str(names.get(index, f"LABEL_{index}")) for index in range(max(names) + 1)]


def load_library_model(directory: Path) -> LibraryModel:
    """transformers' module of a directory that its `save_pretrained` wrote, with its processor.

    Raises:
        CheckpointError: a file is missing or unreadable, the model is of no kind that segments by
            queries, or parameters are missing.
        UnsafeCheckpointError: reading the weights would run code.
        DependencyError: transformers isn't installed.
    """
    kind = _known(model_type(directory), str(directory / CONFIG))
    library = transformers()
    files = weight_files(directory)
    state = {name: tensor for file in files for name, tensor in read_state(file).items()}
    module = _build(library, directory, kind, state)
    return LibraryModel(str(directory), _sha256(files), module, load_processor(directory, kind))


def as_library_model(module: nn.Module, processor: Any = None) -> LibraryModel:
    """A transformers module as it is, with the processor given or that of where it came from.

    Raises:
        CheckpointError: it is no transformers module, or its preprocessing isn't known.
    """
    name, config = type(module).__name__, getattr(module, "config", None)
    if not type(module).__module__.startswith("transformers.") or config is None:
        raise CheckpointError(
            f"{name}: neither mpdiag's Mask2Former nor a model of transformers or detectron2, so "
            "how images are shown to it isn't known"
        )
    kind = _known(config.model_type, name)
    if processor is None:
        origin = Path(str(config.name_or_path or ""))
        if not _has_processor(origin):
            raise CheckpointError(
                f"{name}: its image processor isn't known; give it as processor=..., as "
                "AutoImageProcessor.from_pretrained gives it"
            )
        processor = load_processor(origin, kind)
    return LibraryModel(name, parameters_sha256(module), module.eval(), processor)


def parameters_sha256(module: nn.Module) -> str:
    """Of the names and values of all parameters and buffers that are saved with a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def model_type(directory: Path) -> str | None:
    """What config.json calls the kind of model; None where it doesn't say."""
    found = read_json(directory / CONFIG).get("model_type")
    return None if found is None else str(found)


def _known(kind: str | None, source: str) -> str:
    """The model type, refused where it is none of CLASSES."""
    if kind not in CLASSES:
        raise CheckpointError(
            f"{source}: model_type = {kind!r} is none that segments images by queries; known are "
            f"{', '.join(CLASSES)}"
        )
    return kind


def weight_files(directory: Path) -> list[Path]:
    """The files of weights, all shards of one, safetensors where there are both kinds.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    for stem in _WEIGHTS:
        suffix = "safetensors" if stem == "model" else "bin"
        whole = directory / f"{stem}.{suffix}"
        if whole.is_file():
            return [whole]
        index = directory / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(
        f"{directory}: no model.safetensors or pytorch_model.bin in this directory"
    )


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, Mapping) or not all(isinstance(x, str) for x in names.values()):
        raise CheckpointError(f"{index}: its weight_map names no files")
    # A name alone, so that an index can't lead out of its directory.
    files = [index.parent / Path(name).name for name in sorted(set(names.values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file, which {index.name} lists; copy it there")
    return files


def _build(library: Any, directory: Path, kind: str, state: dict[str, Tensor]) -> nn.Module:
    try:
        with quiet(library):
            config = library.AutoConfig.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
            module, report = getattr(library, CLASSES[kind]).from_pretrained(
                None,
                config=config,
                state_dict=state,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                dtype=torch.float32,
            )
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{directory}: transformers can't build its {CLASSES[kind]} ({why:.200})"
        ) from error
    # A mismatched key comes with the two shapes.
    wrong = sorted(report["missing_keys"]) + sorted(str(x[0]) for x in report["mismatched_keys"])
    if wrong:
        raise CheckpointError(
            f"{directory}: no weights of a {CLASSES[kind]}: {len(wrong)} parameters are missing or "
            f"of another shape ({', '.join(wrong[:NAMES_SHOWN])})"
        )
    model: nn.Module = module.eval()
    return model


def load_processor(directory: Path, kind: str) -> Any:
    """The image processor of a directory; with the tokenizer of task names, for OneFormer.

    Raises:
        CheckpointError: it isn't there, or can't be read.
    """
    library = transformers()
    if not _has_processor(directory):
        raise CheckpointError(
            f"{directory / PREPROCESSOR}: no such file, so how images are shown to the model isn't "
            "known; save its image processor there"
        )
    # Its class names are only for training, and would be downloaded.
    extra = {"class_info_file": None} if kind == "oneformer" else {}
    try:
        with quiet(library):
            images = library.AutoImageProcessor.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True, **extra
            )
            if kind != "oneformer":
                return images
            words = library.AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
            length = read_json(directory / CONFIG).get("task_seq_len", 77)
            return library.OneFormerProcessor(images, words, task_seq_length=length)
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{directory}: transformers can't read its preprocessing ({why:.200})"
        ) from error


def _has_processor(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (PREPROCESSOR, _PROCESSOR))


def transformers() -> Any:
    """The library.

    Raises:
        DependencyError: it isn't installed.
    """
    try:
        return import_module("transformers")
    except ImportError:
        raise DependencyError(
            "this model is run by transformers, which isn't installed: pip install "
            "'mpdiag[transformers]'"
        ) from None


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """transformers keeps its progress bars and advice to itself."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
