"""Laws that every definition keeps: it takes the attributes that ONNX gives the operator, with ONNX's defaults."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import defs, helper
from onnx_cases import _OUT

from porter.errors import PorterError
from porter.graph.contrib import TABLE as SPELLED
from porter.graph.upgrade import TABLE
from porter.ops import families, find, lookup
from porter.ops.registry import REQUIRED

DEFINITIONS = [d for found in families().values() for d in found]
# Attributes that say nothing about values: storage hints, and training options of opset 1.
MEANINGLESS = {"consumed_inputs"}


def last_opset(definition):
    """The newest opset at which this definition holds."""
    later = [d.since for d in DEFINITIONS if d.name == definition.name and d.since > definition.since]
    return min(later) - 1 if later else defs.onnx_opset_version()


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: f"{d.name}-{d.since}")
def test_it_takes_what_the_standard_gives(definition):
    schema = defs.get_schema(definition.name, last_opset(definition), definition.domain)
    theirs = {}
    for name, attribute in schema.attributes.items():
        value = helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None
        value = value.decode() if isinstance(value, bytes) else value
        value = tuple(v.decode() if isinstance(v, bytes) else v for v in value) if isinstance(value, list) else value
        theirs[name] = REQUIRED if attribute.required else value
    for name in MEANINGLESS:
        theirs.pop(name, None)
    ours = dict(definition.attributes)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, float):
            assert np.float32(ours[name]) == np.float32(value)
        elif value is not None:  # where the schema has no default, its text has
            assert ours[name] == value


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: f"{d.name}-{d.since}")
def test_it_takes_as_many_inputs_and_says_what_it_computes(definition):
    schema = defs.get_schema(definition.name, last_opset(definition), definition.domain)
    if definition.variadic is None:
        assert len(definition.parameters) == schema.max_input
    assert definition.formula
    assert definition.formula.endswith((".", "]"))
    assert definition.static <= {*definition.parameters, definition.variadic}


def test_no_two_definitions_hold_at_once():
    keys = [(d.domain, d.name, d.since) for d in DEFINITIONS]
    assert sorted(keys) == sorted(set(keys))


def test_every_operator_of_the_standard_has_a_meaning():
    newest = defs.onnx_opset_version()
    without = []
    for schema in defs.get_all_schemas_with_history():
        if schema.domain or schema.deprecated or schema.name in _OUT:
            continue
        if find("", schema.name, newest) is None and not (schema.has_function or schema.has_context_dependent_function):
            without.append(schema.name)
    assert without == []


def test_every_version_of_an_operator_has_a_meaning():
    """A definition that holds at that opset, a function body, or a step that brings it to a newer one."""
    without = []
    for schema in defs.get_all_schemas_with_history():
        if schema.domain or schema.name in _OUT:
            continue
        name, since = schema.name, schema.since_version
        body = schema.has_function or schema.has_context_dependent_function
        raised = any(op == name and opset > since for op, opset in TABLE)
        if find("", name, since) is None and not body and not raised:
            without.append((name, since))
    assert without == []


def test_the_operators_of_onnxruntime_that_language_models_use():
    named = """GroupQueryAttention MultiHeadAttention Attention RotaryEmbedding SkipLayerNormalization SimplifiedLayerNormalization
    SkipSimplifiedLayerNormalization FastGelu Gelu BiasGelu QuickGelu FusedMatMul MatMulNBits GatherBlockQuantized MoE QMoE
    QLinearAdd QLinearMul QLinearConcat QLinearSigmoid QLinearLeakyRelu QLinearAveragePool QLinearGlobalAveragePool
    QLinearSoftmax QLinearWhere
    QLinearReduceMean LayerNormalization EmbedLayerNormalization""".split()
    assert set(named) - set(SPELLED) == set()


def test_an_unknown_operator_is_named():
    with pytest.raises(PorterError) as error:
        lookup("com.acme", "Foo", 1, node="/layer.3/foo")
    assert str(error.value) == (
        "operator com.acme.Foo at node '/layer.3/foo'\n"
        "  expected an operator of ai.onnx, or a function that the model carries\n"
        "  found no definition at opset 1\n"
        "  try  export the model with plain ONNX operators"
    )


def test_an_operator_before_its_time_is_named():
    with pytest.raises(PorterError, match="expected opset 20 or later"):
        lookup("", "Gelu", 19)
