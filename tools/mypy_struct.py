"""A mypy plugin: tells mypy of the `replace` method that `flax.struct.dataclass` adds."""

from collections.abc import Callable

from mypy.nodes import ARG_STAR2, Argument, Var
from mypy.plugin import ClassDefContext, Plugin
from mypy.plugins.common import add_method_to_class
from mypy.plugins.dataclasses import dataclass_class_maker_callback
from mypy.types import AnyType, TypeOfAny
from mypy.typevars import fill_typevars


def _make_dataclass(context: ClassDefContext) -> bool:
    """Makes the dataclass as mypy itself would, then adds `replace(**changes) -> Self`."""
    changes = AnyType(TypeOfAny.explicit)
    argument = Argument(Var("changes", changes), changes, None, ARG_STAR2)
    add_method_to_class(context.api, context.cls, "replace", [argument], fill_typevars(context.cls.info))
    return dataclass_class_maker_callback(context)


class StructPlugin(Plugin):
    """Hooks the decorator by its full name."""

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        return _make_dataclass if fullname == "flax.struct.dataclass" else None


def plugin(version: str) -> type[Plugin]:
    """The entry point that mypy calls."""
    del version
    return StructPlugin
