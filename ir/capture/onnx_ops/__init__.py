"""ONNX op -> how it is said in our ops. Each function reads the node at hand through the Importer `to`."""

from .activation import TABLE as _activation
from .attention import TABLE as _attention
from .constant import TABLE as _constant
from .contract import TABLE as _contract
from .control import TABLE as _control
from .conv import TABLE as _conv
from .cut import TABLE as _cut
from .elementwise import TABLE as _elementwise
from .index import TABLE as _index
from .microsoft import TABLE as _microsoft
from .microsoft_attention import TABLE as _microsoft_attention
from .norm import TABLE as _norm
from .pool import TABLE as _pool
from .quantize import TABLE as _quantize
from .reduce import TABLE as _reduce
from .resize import TABLE as _resize
from .search import TABLE as _search
from .sequence import TABLE as _sequence
from .shape import TABLE as _shape
from .types import TABLE as _types

ONNX = {
    **_activation, **_attention, **_constant, **_contract, **_control, **_conv, **_cut, **_elementwise, **_index,
    **_norm, **_pool, **_quantize, **_reduce, **_resize, **_search, **_sequence, **_shape, **_types,
    **_microsoft, **_microsoft_attention,
}  # fmt: skip
