from collections.abc import Iterator
from typing import Any

# What the library keeps: parameters by (scope, selector). Read by the check for unread bindings.
_CONFIG: dict[tuple[str, str], dict[str, Any]]
_OPERATIVE_CONFIG: dict[tuple[str, str], dict[str, Any]]
_IMPORTS: set[Any]
_REGISTRY: Any

class ConfigurableReference:
    _selector: str
    @property
    def configurable(self) -> Any: ...
    @property
    def selector(self) -> str: ...
    @property
    def scoped_selector(self) -> str: ...
    @property
    def evaluate(self) -> bool: ...

def iterate_references(config: Any) -> Iterator[ConfigurableReference]: ...
def parse_value(value: str) -> Any: ...
