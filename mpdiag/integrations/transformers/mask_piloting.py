"""Mask piloting (MP-Former, section 4) for Mask2Former and OneFormer of transformers."""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import TrainerCallback

from mpdiag import untrusted
from mpdiag.checkpoints.transformers_directory import CLASS_EMBEDDINGS, CLASS_EMBEDDINGS_TENSOR
from mpdiag.config import LossConfig, PilotConfig, parse
from mpdiag.errors import CheckpointError, TrainingError
from mpdiag.integrations.batch import find_targets
from mpdiag.integrations.processes import rank_and_count
from mpdiag.integrations.transformers.pilot_targets import pilot_targets
from mpdiag.integrations.transformers.piloted_decoder import PilotedDecoder, piloted_decoder
from mpdiag.losses import build_point_sampler, matching_costs, named_by_layer, set_losses
from mpdiag.matching import Target, match
from mpdiag.models import PilotInputs, build_pilot_inputs
from mpdiag.models.mask_noise import Generators
from mpdiag.models.mask_piloting import class_embeddings, pilot_normalizers
from mpdiag.recording.compiled import compiled_module
from mpdiag.recording.family import family_of
from mpdiag.store.files import replace_file

_SUBMODULE = "mask_piloting"
_PARAMETER = f"{_SUBMODULE}.weight"
_MAX_BYTES = 2**30  # of a file with class embeddings
_MAX_SEED = 2**62


@dataclass(slots=True)
class _Pass:
    """What the losses of the MP part of one forward pass are computed from.

    `pilot` and `predictions` are None if no image has GT.
    """

    targets: list[Target]
    generators: Generators
    pilot: PilotInputs | None
    predictions: tuple[Tensor, Tensor] | None = None


class MaskPiloting:
    """Add mask-piloted (MP) training to a Mask2Former or OneFormer of transformers.

    In training mode, a forward pass with labels also runs MP queries: class embeddings of the GT,
    with noised GT masks as attention masks. They do not change the outputs of the model, which are
    those of its own queries. In evaluation mode the model is as without piloting.

        piloting = MaskPiloting(model, queries=100, noise="point", noise_ratio=0.2)
        trainer = Trainer(model, ..., callbacks=[piloting.callback()])

    Without a Trainer, add the losses in each step:

        optimizer = AdamW(model.parameters())  # after MaskPiloting(model)
        loss = model(**batch).loss + piloting.loss()

    Create it before the optimizer, DistributedDataParallel and the Trainer: it registers the class
    embeddings as a submodule of the model, so that they are trained, moved and clipped with it.
    `model.save_pretrained` leaves them out of the weights, so that the directory loads without
    mpdiag, and writes them to `mask_piloting.safetensors` beside them; `load` reads them.

    Attributes:
        losses: weighted losses of the MP part in the last pass, by the names of mpdiag's trainer
            (`loss_mask_dn_0` of M^0, ..., `loss_mask_dn` of M^L). They have no gradient.
        loaded: whether `load` has read class embeddings.
        settings: the arguments.
        loss_config: weights and points of the losses, from the configuration of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        queries: int = 100,
        layers: int | Literal["all"] = "all",
        noise: str = "point",
        noise_ratio: float = 0.2,
        label_noise: float = 0.2,
        *,
        num_groups: int | None = None,
        assignment: Literal["hard", "match"] = "hard",
        variant: Literal["paper", "official"] = "paper",
    ) -> None:
        """Register the class embeddings and the hooks.

        Args:
            model: Mask2FormerForUniversalSegmentation or OneFormerForUniversalSegmentation.
            queries: n_q, number of MP queries per image. They form groups with one query per GT.
            layers: number of decoder layers, from the first, that attend within GT masks.
            noise: noise on GT masks, one of those of `mpdiag.config.PilotConfig`.
            noise_ratio: strength of the noise, see there.
            label_noise: probability that a query gets the embedding of another class.
            num_groups: number of groups, whatever the number of GT; replaces `queries`.
            assignment: each query reconstructs its own GT (`hard`), or the GT that it matches.
            variant: follow the paper or the official code where they differ.

        Raises:
            ConfigError: an argument is invalid.
            TrainingError: the model is of another class, compiled, drops layers, or has piloting.
        """
        self.settings = parse(
            PilotConfig,
            {
                "num_queries": queries,
                "layers": layers,
                "noise": noise,
                "noise_ratio": noise_ratio,
                "label_noise": label_noise,
                "num_groups": num_groups,
                "assignment": assignment,
                "variant": variant,
            },
            "MaskPiloting",
        )
        require_no_compilation(model)
        if getattr(model, _SUBMODULE, None) is not None:
            raise TrainingError(f"{_name(model)}: has mask piloting already; detach it first")
        require_all_layers(model)
        decoder = piloted_decoder(model)
        if decoder is None:
            raise TrainingError(
                f"{_name(model)}: MaskPiloting supports Mask2FormerForUniversalSegmentation and "
                "OneFormerForUniversalSegmentation of transformers; create it before the model is "
                "wrapped, for example by DistributedDataParallel"
            )
        self.model: Any = model
        self.loss_config: LossConfig = family_of(model).loss_config(model, _name(model))
        self.losses: dict[str, Tensor] = {}
        self.loaded = False
        self._decoder: PilotedDecoder = decoder
        self._signature = inspect.signature(type(model).forward)
        self._pass: _Pass | None = None
        self._added_by_callback = False
        self._attach()

    @property
    def class_embeddings(self) -> nn.Embedding:
        """(K, C) embeddings of the classes, the submodule `mask_piloting` of the model."""
        embeddings: nn.Embedding = getattr(self.model, _SUBMODULE)
        return embeddings

    def _attach(self) -> None:
        model = self.model
        parameter = next(self._decoder.decoder.parameters())
        embeddings = nn.Embedding(model.config.num_labels, model.config.hidden_dim)
        model.add_module(_SUBMODULE, embeddings.to(parameter.device, parameter.dtype))
        self._ignored_before = model._keys_to_ignore_on_save
        model._keys_to_ignore_on_save = {*(self._ignored_before or ()), _PARAMETER}
        model.save_pretrained = self._save_pretrained
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Copy with the model, for example for averaged weights, but without the last pass."""
        return {**vars(self), "_pass": None}

    def detach(self) -> None:
        """Remove the hooks and the class embeddings from the model."""
        for handle in self._handles:
            handle.remove()
        self._decoder.remove()
        delattr(self.model, _SUBMODULE)
        del self.model.save_pretrained
        self.model._keys_to_ignore_on_save = self._ignored_before
        self._pass = None

    def callback(self) -> "MaskPilotingCallback":
        """Return a callback with which a Trainer adds the losses to those of the model.

        It also ends a training that was interrupted, after which `loss` is an error.
        """
        self._added_by_callback = False
        return MaskPilotingCallback(self)

    def loss(self) -> Tensor:
        """Return the sum of the weighted losses of the MP part in the last forward pass.

        It is 0 if no image has GT. Call it once after each forward pass in training.

        Raises:
            TrainingError: there was no such pass since the last call, or the Trainer's callback
                has added the losses.
            NonFiniteError: a matching cost is not finite.
        """
        if self._added_by_callback:
            raise TrainingError(
                "MaskPiloting.loss: the Trainer's callback has added it to the model's loss "
                "already; after a training that was interrupted, call MaskPiloting.callback() first"
            )
        return self._loss()

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the class embeddings to `mask_piloting.safetensors` in `directory`.

        Raises:
            OutputError: the file cannot be written.
        """
        weight = self.class_embeddings.weight.detach().cpu().contiguous()
        replace_file(Path(directory) / CLASS_EMBEDDINGS, save({CLASS_EMBEDDINGS_TENSOR: weight}))

    def load(self, directory: str | os.PathLike[str]) -> None:
        """Read the class embeddings in `directory`.

        `save`, `model.save_pretrained` and, for an MP-Former, `mpdiag convert` write them.

        Raises:
            CheckpointError: the file is missing, unreadable, or of a model with other classes.
        """
        path = Path(directory) / CLASS_EMBEDDINGS
        try:
            weight = load(untrusted.read_bytes(path, _MAX_BYTES)).get(CLASS_EMBEDDINGS_TENSOR)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: no readable class embeddings ({error}); give a directory that "
                "save_pretrained of a piloted model wrote"
            ) from None
        expected = self.class_embeddings.weight
        if weight is None or weight.shape != expected.shape:
            found = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
            raise CheckpointError(
                f"{path}: {CLASS_EMBEDDINGS_TENSOR} is {found}, but the model has "
                f"{tuple(expected.shape)}"
            )
        with torch.no_grad():
            expected.copy_(weight)
        self.loaded = True

    def draw_generators(self, images: int, device: torch.device) -> Generators:
        """Return a random generator per image, seeded by torch's global generator and the rank."""
        seeds: list[int] = torch.randint(_MAX_SEED, (images,)).tolist()
        rank, _ = rank_and_count()
        return [torch.Generator(device).manual_seed(seed + rank) for seed in seeds]

    def _save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Save the model as transformers does, with the class embeddings in their own file."""
        if kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.save(save_directory)
        return type(self.model).save_pretrained(self.model, save_directory, *args, **kwargs)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Prepare the MP queries of a forward pass."""
        self._pass = None
        self._decoder.begin(None, None)
        given = self._signature.bind_partial(model, *args, **kwargs).arguments
        labels = find_targets(given) if model.training else None
        if labels is None:
            return
        _require_eager(torch.compiler.is_compiling())
        device = given["pixel_values"].device
        targets = pilot_targets(labels, self.model.config.num_labels, device)
        generators = self.draw_generators(len(targets), device)
        layers = self._decoder.num_layers
        pilot = build_pilot_inputs(
            targets,
            self.settings,
            layers=layers if self.settings.layers == "all" else min(self.settings.layers, layers),
            num_classes=self.model.config.num_labels,
            generators=generators,
        )
        self._pass = _Pass(targets, generators, pilot)
        if pilot is not None:
            content, _ = class_embeddings(pilot, self.class_embeddings, given["pixel_values"])
            self._decoder.begin(pilot, content)

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._pass is None:
            return output
        self._pass.predictions = self._decoder.end()
        if self._pass.pilot is None:
            # DistributedDataParallel looks for the embeddings in what the forward pass returns.
            output.loss = output.loss + self.class_embeddings.weight.sum() * 0
        if self._added_by_callback:
            output.loss = output.loss + self._loss()
        return output

    def _loss(self) -> Tensor:
        done, self._pass = self._pass, None
        if done is None:
            raise TrainingError(
                "MaskPiloting.loss: no forward pass in training mode and with labels since the "
                "last call; call it once after each"
            )
        # A zero that depends on the embeddings, as DistributedDataParallel requires.
        zero = self.class_embeddings.weight.sum() * 0
        num_masks, class_weight = self._normalizers(done.targets, zero.device)
        if done.pilot is None or done.predictions is None:
            self.losses = {}
            return zero
        with torch.autocast(zero.device.type, enabled=False):
            losses = set_losses(
                *done.predictions,
                done.targets,
                self._assignment(done.pilot, *done.predictions, done.targets),
                build_point_sampler(self.loss_config, done.generators),
                num_masks=num_masks,
                class_weight=class_weight,
                no_object_weight=self.loss_config.no_object_weight,
                in_class_loss=done.pilot.in_class_loss,
            )
            named = named_by_layer(losses.weighted(self.loss_config), "_dn")
            total = torch.stack(list(named.values())).sum() + zero
        self.losses = {name: value.detach() for name, value in named.items()}
        return total

    def _assignment(
        self,
        pilot: PilotInputs,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: Sequence[Target],
    ) -> Tensor:
        """Return the (L + 1, B, P) GT of each MP query: its own, or its match in its group."""
        if self.settings.assignment == "hard":
            return pilot.gt_on_cpu.expand(len(class_logits), -1, -1)
        config = self.loss_config
        points = None
        if config.num_points != "all":
            points = torch.rand(config.num_points, 2, device=mask_logits.device)
        return match(
            class_logits,
            mask_logits,
            targets,
            costs=matching_costs(config),
            points=points,
            groups=pilot.match_groups(),
        )

    def _normalizers(self, targets: Sequence[Target], device: torch.device) -> tuple[float, float]:
        """Return the normalizers of mask and class losses, averaged over the processes."""
        counts = [len(target["labels"]) for target in targets]
        sums = pilot_normalizers(counts, self.settings, self.loss_config.no_object_weight)
        _, processes = rank_and_count()
        if processes == 1:
            return max(sums[0], 1.0), max(sums[1], 1.0)
        total = torch.tensor(sums, device=device)
        dist.all_reduce(total)
        masks, weight = (total.clamp(min=1) / processes).tolist()
        return masks, weight


class MaskPilotingCallback(TrainerCallback):
    """Add the losses of the MP part to the loss of the model while a Trainer trains it.

    A resumed training reads the class embeddings from the checkpoint in `args.output_dir`. If you
    resume from another place, call `MaskPiloting.load` before.

    `on_train_begin` raises TrainingError if the Trainer compiles the model, copies it to several
    GPUs in one process, or trains another model, and CheckpointError if a resumed training has no
    class embeddings.
    """

    def __init__(self, piloting: MaskPiloting) -> None:
        self.piloting = piloting

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        piloting = self.piloting
        if args.torch_compile:
            raise TrainingError(_COMPILED.format("torch_compile=True"))
        if args.n_gpu > 1:
            raise TrainingError(
                f"{args.n_gpu} GPUs in one process: MaskPiloting does not work in copies of a "
                "model; start the script with torchrun"
            )
        if all(module is not piloting.model for module in kwargs["model"].modules()):
            raise TrainingError(
                "MaskPiloting: the Trainer trains another model; give both the same object, and "
                "no model_init"
            )
        if state.global_step:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if checkpoint.exists() or not piloting.loaded:
                piloting.load(checkpoint)
        piloting._added_by_callback = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.piloting._added_by_callback = False


_COMPILED = "{}: MaskPiloting changes the forward pass by hooks, which compiled code may not call"


def require_no_compilation(model: nn.Module) -> None:
    """Raise TrainingError if torch.compile has compiled `model` or a module in it."""
    compiled = compiled_module(model)
    if compiled is not None:
        raise TrainingError(f"{_COMPILED.format(compiled)}; do not compile the model")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _require_eager(compiling: bool) -> None:
    """Raise TrainingError if the caller, whose code torch.compile traces, says so."""
    if compiling:
        raise TrainingError(f"{_COMPILED.format('torch.compile')}; do not compile the model")


def require_all_layers(model: nn.Module) -> None:
    """Raise TrainingError if the decoder skips layers in training (Mask2Former with dropout)."""
    for path, module in model.named_modules():
        if getattr(module, "layerdrop", 0.0) > 0:
            raise TrainingError(
                f"{path}.layerdrop = {module.layerdrop}: skips decoder layers in training, whose "
                "attention masks have different sizes; set it to 0"
            )


def _name(model: nn.Module) -> str:
    return type(model).__name__
