"""A pretended CUDA device: it computes on the CPU, and counts what makes the CPU wait for the GPU.

    with pretend_cuda(roots=["/repo/mypackage"]) as ledger:
        model.to("cuda")(images)  # runs on the CPU; torch.cuda.is_available() is true
        print(ledger)             # what makes the CPU wait, by line of the code under `roots`

Tensors on "cuda:0" wrap CPU tensors. In C++ their device is PrivateUse1, which needs no driver and
supports autograd and optimizers; in Python it is cuda:0. A function mode rewrites "cuda" in calls,
and a dispatch mode runs each operator on the wrapped tensors. These raise the error that CUDA
raises (RuntimeError, TypeError, NotImplementedError):

    operands on two devices (except a CPU tensor without dimensions in a pointwise operator),
    pin_memory of an expanded tensor, a CUDA tensor as NumPy array, a generator of the other device,
    operators without a CUDA kernel, matrix products, convolutions and pooling of integers

`ledger.counts` is a Counter of (kind, site) with these kinds:

    item        .item(), .tolist(), bool(), int(), float(), torch.equal, `if` on a tensor
    d2h         copy to the CPU
    shape       output size that depends on values: nonzero, unique, mask as index, bincount, ...
    h2d         copy from memory that is not pinned (waits until earlier work is done)
    h2d-async   the same with non_blocking=True (waits until the data are staged)
    literal     numbers and lists that become tensors: torch.tensor(list, device="cuda"), x[[1, 2]]
    cpu-index   CPU tensor as index into a CUDA tensor
    explicit    torch.cuda.synchronize
    data_ptr    address of a tensor; a CPU kernel that reads it would crash

Autocast is that of `pretended_autocast.py`. torch.inference_mode acts as no_grad. Not simulated:
errors of inference tensors, limits of kernels (dtypes, sizes, alignment), numerics, memory,
streams, NCCL, Triton, torch.compile. Module.to creates new parameters, where CUDA keeps them. Only
the thread that enters the context is affected. It needs torch 2.15.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from weakref import WeakValueDictionary

import torch
from pretended_autocast import autocast_of_cuda, register_autocast
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

CUDA = torch.device("cuda", 0)
ANCHOR = "anchor"  # name of PrivateUse1
FAR = 1 << 46  # added to addresses, so that reading them on the CPU fails
aten = torch.ops.aten
TorchGenerator = torch.Generator
torch_location = torch.serialization.location_tag


class Ledger:
    """Counts of what makes the CPU wait, by kind and by line of the code under `roots`."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = tuple(roots)
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str) -> None:
        self.counts[kind, self.site()] += 1

    def site(self) -> str:
        """Return the innermost line of the code under `roots`, else the innermost outside torch."""
        frame, fallback = sys._getframe(1), ""
        while frame is not None:
            name = frame.f_code.co_filename
            text = f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
            if name != __file__ and name.startswith(self.roots):
                root = max((r for r in self.roots if name.startswith(r)), key=len)
                return text.removeprefix(root).lstrip("/")
            if not fallback and name != __file__ and "/torch/" not in name:
                fallback = text
            frame = frame.f_back
        return fallback

    def __str__(self) -> str:
        kinds: Counter[str] = Counter()
        for (kind, _), times in self.counts.items():
            kinds[kind] += times
        lines = [f"{n:6} {kind:10} {site}" for (kind, site), n in self.counts.most_common()]
        return "\n".join([", ".join(f"{kind} {n}" for kind, n in kinds.most_common()), *lines])


LEDGER = Ledger([])  # of the active context


# --- tensors -------------------------------------------------------------------------------------


class PretendTensor(torch.Tensor):
    """A CPU tensor that reports the device cuda:0."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PretendTensor":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        kind = {"dtype": held.dtype, "layout": held.layout, "device": torch.device(ANCHOR, 0)}
        self = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, **kind)
        self.held = held
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub is no class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the values of nested containers."""
    if type(value) in (tuple, list):
        return type(value)([mapped(function, x) for x in value])
    if type(value) is dict:
        return {key: mapped(function, x) for key, x in value.items()}
    return function(value)


def leaves_of(value: Any) -> list[Any]:
    if type(value) in (tuple, list):
        return [leaf for x in value for leaf in leaves_of(x)]
    return leaves_of(list(value.values())) if type(value) is dict else [value]


def held_by(x: Any) -> Any:
    return x.held if isinstance(x, PretendTensor) else x


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, PretendTensor)


def is_cuda_device(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", ANCHOR)


# --- operators: check and count, then compute on the CPU ------------------------------------------


def named(names: str) -> set[Any]:
    """Return operators by names such as `add.Tensor`; without an overload, the `default` one."""
    pairs = (name.partition(".") for name in names.split())
    return {getattr(getattr(aten, packet), overload or "default") for packet, _, overload in pairs}


COPIES = named("copy_ copy _to_copy")
READS = named("_local_scalar_dense equal is_nonzero")
SHAPES = named(
    "nonzero bincount histc masked_select repeat_interleave.Tensor _unique _unique2 unique_dim "
    "unique_consecutive"
)
INDEXED = named("index.Tensor _unsafe_index.Tensor index_put index_put_ _index_put_impl_")
SCALARS_JOIN = INDEXED | named("where.self masked_fill.Tensor masked_fill_.Tensor")
FLOATING = named(
    "mm bmm addmm baddbmm mv addmv dot convolution max_pool2d_with_indices adaptive_max_pool2d"
)
ANYWHERE = named("set_.source_Storage lift_fresh detach")
HALF_TO_FLOAT = named("_softmax _log_softmax")  # in one operator, which the CPU lacks


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Check an operator as CUDA does, and run it on the wrapped tensors."""
    leaves = leaves_of((args, kwargs))
    pretended = [x for x in leaves if isinstance(x, PretendTensor)]
    asked = kwargs.get("device") is not None
    result_on_cuda = is_cuda_device(kwargs["device"]) if asked else bool(pretended)
    check_generators(leaves, result_on_cuda)
    if not pretended and not result_on_cuda:
        return func(*args, **kwargs)
    check(func, args, kwargs, leaves, pretended)
    held, options = mapped(held_by, args), mapped(held_by, kwargs)
    if asked:
        options["device"] = torch.device("cpu")
    options.pop("pin_memory", None)
    if func in HALF_TO_FLOAT and held[2]:
        held = (held[0].float(), held[1], False)
    found = func(*held, **options)
    written = [
        value
        for value, argument in zip(args, func._schema.arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if len(written) == 1 and isinstance(found, Tensor):
        return written[0]
    if "out" in kwargs or not result_on_cuda or func in READS:
        return kwargs.get("out", found)
    return mapped(lambda x: PretendTensor(x) if is_plain(x) else x, found)


def check_generators(leaves: list[Any], on_cuda: bool) -> None:
    for generator in (x for x in leaves if isinstance(x, TorchGenerator)):
        if (generator._cdata in GENERATORS) != on_cuda:
            wanted, found = ("cuda", "cpu") if on_cuda else ("cpu", "cuda")
            raise RuntimeError(
                f"Expected a '{wanted}' device type for generator but found '{found}'"
            )


def check(func: Any, args: Any, kwargs: Any, leaves: list[Any], pretended: list[Any]) -> None:
    """Raise the errors of CUDA, and count what makes the CPU wait."""
    if func in COPIES:
        return count_copy(func, args, kwargs)
    runs = torch._C._dispatch_has_computed_kernel_for_dispatch_key(func.name(), "CUDA")
    if func.namespace == "aten" and not runs:
        raise NotImplementedError(f"Could not run '{func}' with arguments from the 'CUDA' backend")
    if func in FLOATING and not pretended[0].dtype.is_floating_point:
        raise RuntimeError(f'"{func}" not implemented for {pretended[0].dtype} on CUDA')
    plain = [x for x in leaves if is_plain(x)]
    if func in READS:
        LEDGER.add("item")
    elif func in SHAPES:
        LEDGER.add("shape")
    elif func in INDEXED and isinstance(args[0], PretendTensor):
        plain = count_indices(args)
    if func in ANYWHERE or not plain or not pretended:
        return None
    scalars_join = torch.Tag.pointwise in func.tags or func in SCALARS_JOIN
    target = args[0] if func._schema.is_mutable else pretended[0]
    if scalars_join and isinstance(target, PretendTensor) and not any(x.dim() for x in plain):
        return None
    shapes = [f"{tuple(x.shape)} on {x.device}" for x in leaves if isinstance(x, Tensor)]
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
        f"cpu! ({func} at {LEDGER.site()}: {', '.join(shapes)})"
    )


def count_copy(func: Any, args: Any, kwargs: Any) -> None:
    if func is aten._to_copy.default:
        source, to_cuda = args[0], is_cuda_device(kwargs.get("device") or args[0].device)
        waits = not kwargs.get("non_blocking")
    else:
        source, to_cuda = args[1], isinstance(args[0], PretendTensor)
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
    if isinstance(source, PretendTensor) and not to_cuda:
        LEDGER.add("d2h")
    elif to_cuda and is_plain(source) and not getattr(source, "pretended_pinned", False):
        LEDGER.add("h2d" if waits else "h2d-async")


def count_indices(args: Any) -> list[Tensor]:
    """Count masks and CPU indices; return the CPU values, which CUDA does not accept."""
    values = [x for x in args[2:3] if is_plain(x)]
    fills = values and values[0].numel() == 1  # runs as masked_fill, whose size is known
    for index in (x for x in args[1] if x is not None):
        if is_plain(index):
            LEDGER.add("cpu-index")
        elif index.dtype in (torch.bool, torch.uint8) and not fills:
            LEDGER.add("shape")
    return values


class Dispatch(TorchDispatchMode):
    """Also handles operators without a pretended tensor among their arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


# --- functions that do not reach the dispatcher ---------------------------------------------------


def numpy(self: Tensor, *_: Any, force: bool = False, **__: Any) -> Any:
    if force:
        return self.detach().cpu().numpy()
    raise TypeError(
        "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
        f"host memory first. (at {LEDGER.site()})"
    )


def deepcopy(self: PretendTensor, memo: dict[int, Any]) -> Tensor:
    if id(self) not in memo:
        made = PretendTensor(copy.deepcopy(self.held)).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        memo[id(self)] = made
    return memo[id(self)]


def reduce_ex(self: PretendTensor, protocol: int) -> Any:
    """Pickle with cuda:0 as the location of the storage, as torch.save does."""
    storage = self.held.untyped_storage()
    SAVED[storage._cdata] = storage
    return self.held.detach().__reduce_ex__(protocol)


SAVED: dict[int, Any] = {}  # storages of pretended tensors that were pickled


def location(storage: Any) -> str:
    return "cuda:0" if storage._cdata in SAVED else torch_location(storage)


def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        LEDGER.add(kind)
        return function(*args)

    return call


METHODS: dict[Any, Callable[..., Any]] = {  # of pretended tensors
    Tensor.numpy: numpy,
    Tensor.__array__: numpy,
    Tensor.tolist: counted("item", lambda self: self.held.tolist()),
    Tensor.data_ptr: counted("data_ptr", lambda self: self.held.data_ptr() + FAR),
    Tensor.untyped_storage: lambda self: self.held.untyped_storage(),
    Tensor.__deepcopy__: deepcopy,
    Tensor.__reduce_ex__: reduce_ex,
    Tensor.record_stream: lambda self, stream: None,
    Tensor.__repr__: lambda self, **_: f"{self.held!r} (cuda:0)",
}


class Function(TorchFunctionMode):
    """Replaces "cuda" in calls, and handles functions that do not reach the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device or getattr(func, "__name__", "") == "__get__":
            return func(*args, **kwargs)
        first = args[0] if args else None
        if isinstance(first, PretendTensor) and func in METHODS:
            return METHODS[func](first, *args[1:], **kwargs)
        if func is Tensor.is_pinned:
            return getattr(first, "pretended_pinned", False)
        if func is Tensor.pin_memory and torch._debug_has_internal_overlap(first) == 1:
            raise RuntimeError(  # the copy has the strides of the tensor, and is written to
                "unsupported operation: more than one element of the written-to tensor refers to a "
                "single memory location. Please clone() the tensor before performing the operation."
            )
        if func is Tensor.pin_memory or kwargs.pop("pin_memory", False):
            found = first.clone() if func is Tensor.pin_memory else func(*args, **kwargs)
            found.pretended_pinned = True
            return found
        if func is Tensor.cuda:
            return first.to(moved(CUDA), non_blocking=kwargs.get("non_blocking", False))
        to_cuda = is_cuda_device(kwargs.get("device"))
        if func is Tensor.new_tensor and (to_cuda or isinstance(first, PretendTensor)):
            return literal(args[1], kwargs.pop("dtype", None) or first.dtype, **kwargs)
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and to_cuda:
            if isinstance(first, Tensor):
                return first.to(moved(CUDA), kwargs.get("dtype") or first.dtype)
            return literal(first, kwargs.pop("dtype", None), **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(first, PretendTensor):
            args = (first, listed(args[1]), *args[2:])
        return func(*mapped(moved, args), **mapped(moved, kwargs))


def moved(x: Any) -> Any:
    """Replace CUDA devices and their names by those of PrivateUse1."""
    if isinstance(x, torch.device) and x.type == "cuda":
        return torch.device(ANCHOR, 0)
    return f"{ANCHOR}:0" if isinstance(x, str) and x in ("cuda", "cuda:0") else x


def literal(data: Any, dtype: Any, requires_grad: bool = False, **_: Any) -> Tensor:
    LEDGER.add("literal")
    data = mapped(lambda x: x.item() if isinstance(x, Tensor) else x, data)
    return PretendTensor(torch.tensor(data, dtype=dtype)).requires_grad_(requires_grad)


def listed(index: Any) -> Any:
    """Replace lists and arrays in an index by tensors; CUDA copies them to the device."""
    if isinstance(index, tuple):
        return tuple(map(listed, index))
    if isinstance(index, list) or type(index).__module__ == "numpy":
        LEDGER.add("literal")
        made = torch.tensor(index)
        return PretendTensor(made if made.numel() else made.long())
    return index


# --- generators and torch.cuda --------------------------------------------------------------------


class PretendGenerator(TorchGenerator):
    device = property(lambda self: CUDA)


GENERATORS: WeakValueDictionary[int, PretendGenerator] = WeakValueDictionary()  # by C++ address


class GeneratorType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return type.__instancecheck__(TorchGenerator, instance)


class Generator(metaclass=GeneratorType):
    """Replaces torch.Generator."""

    def __new__(cls, device: Any = "cpu") -> Any:
        if not is_cuda_device(device):
            return TorchGenerator(device)
        generator = PretendGenerator("cpu")
        GENERATORS[generator._cdata] = generator
        return generator


class Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return True

    def is_built(self) -> bool:
        return True

    def has_primary_context(self, index: int) -> bool:
        return True


READY: list[Any] = []  # objects that must live as long as the process


def set_up() -> None:
    """Register name, guard and autocast of PrivateUse1, once per process."""
    if READY:
        return
    READY.append(Hooks())
    _setup_privateuseone_for_python_backend(ANCHOR, hook=READY[0])
    # PyTorch asks for these wherever a copy of the random state may be needed, also after the
    # pretended device is gone.
    module = getattr(torch, ANCHOR)
    module.get_rng_state, module.set_rng_state = torch.get_rng_state, torch.set_rng_state
    # Code that takes any device that is there (nn.DataParallel) must find none after it is gone;
    # before that it finds torch.cuda.
    module.is_available = lambda: False
    READY.extend(register_autocast(ANCHOR, PretendTensor))


class NoStream:
    """Replaces streams and events."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@contextmanager
def no_device_change(*_: Any, **__: Any) -> Iterator[None]:
    yield


def torch_cuda() -> dict[str, Any]:
    """Return the replacements of functions of torch.cuda."""
    memory = 80 << 30
    gpu = SimpleNamespace(name="pretended GPU", total_memory=memory, major=9, minor=0)
    values: dict[str, Any] = {
        **{"is_available": True, "device_count": 1, "current_device": 0, "memory_allocated": 0},
        **{"max_memory_allocated": 0, "memory_reserved": 0, "mem_get_info": (memory, memory)},
        **{"get_device_name": gpu.name, "get_device_properties": gpu, "is_bf16_supported": True},
        **{"get_device_capability": (9, 0), "is_current_stream_capturing": False},
        **{"set_device": None, "reset_peak_memory_stats": None, "empty_cache": None},
        **{"manual_seed": None, "manual_seed_all": None, "current_stream": NoStream()},
    }
    functions = {name: lambda *_, value=value, **__: value for name, value in values.items()}
    functions |= {
        "device": no_device_change,
        "device_of": no_device_change,
        "stream": no_device_change,
        "Stream": NoStream,
        "Event": NoStream,
    }
    return functions | {"synchronize": counted("explicit", lambda *_: None)}


@contextmanager
def pretend_cuda(roots: Sequence[str]) -> Iterator[Ledger]:
    """Give PyTorch one pretended CUDA device in this thread; see the module."""
    global LEDGER
    set_up()
    LEDGER = Ledger(roots)
    with ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(owner, name, value))

        for name, value in torch_cuda().items():
            replace(torch.cuda, name, value)
        stack.enter_context(autocast_of_cuda(ANCHOR))
        replace(torch, "Generator", Generator)
        replace(torch.Tensor, "record_stream", lambda self, stream: None)
        replace(torch.serialization, "location_tag", location)
        replace(torch._C, "_InferenceMode", lambda on: torch.set_grad_enabled(not on))
        for module in map(import_module, ("torch.optim.optimizer", "torch.utils._foreach_utils")):
            if hasattr(module, "_foreach_supported_types"):
                kinds = [*module._foreach_supported_types, PretendTensor]
                replace(module, "_foreach_supported_types", kinds)
        stack.callback(SAVED.clear)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(Dispatch())
        stack.enter_context(Function())
        yield LEDGER
