"""Everything that an adapter's file, its metadata and its config say is used or refused: over 170 forms of one thing."""

import grpc
import numpy as np
import pytest
from adapter_forms import Forms
from daemon import error_detail
from derive_adapters import asked
from lent import check, lent
from weights.v1 import component_pb2, error_pb2

OPTIONS = {"layout": component_pb2.LAYOUT_SOURCE, "dtype": component_pb2.FLOAT_TYPE_F32}


@pytest.fixture(scope="module")
def forms(transformer):
    return Forms(transformer).all()


def test_every_form_is_right_or_refused(daemon, family, transformer, forms, tmp_path):
    plain = lent(daemon.load(str(family), "transformer", **OPTIONS))
    wrong = []
    for name, form in forms.items():
        spec = form.write(tmp_path / name)
        try:
            loaded = daemon.load(str(family), "transformer", adapters=asked([(spec, None)]), **OPTIONS)
        except grpc.RpcError as error:
            said, reason = error.details(), error_pb2.ErrorReason.Name(error_detail(error).reason)
            missing = [word for word in form.refused if word not in said]
            if not form.refused or missing or reason != "ERROR_REASON_INVALID_ADAPTER" or not error_detail(error).hint:
                wrong.append(f"{name}: {reason}: {said} (missing {missing})")
            continue
        (report,) = loaded.component.adapters
        if form.refused:
            wrong.append(f"{name}: applied, and not refused for {form.refused}")
            continue
        found, expected = lent(loaded), form.expected(transformer)
        try:
            check(found, expected)
        except AssertionError as problem:
            wrong.append(f"{name}: {problem}")
        changed = [tensor for tensor in plain if not np.array_equal(found[tensor], plain[tensor])]
        if not changed and name != "config-alpha-zero":
            wrong.append(f"{name}: nothing was changed")
        source = component_pb2.AdapterStrengthSource.Name
        said = [(source(told.source).removeprefix("ADAPTER_STRENGTH_SOURCE_"), told.strength) for told in report.strengths]
        if form.strengths is not None and said != form.strengths:
            wrong.append(f"{name}: strengths {said}, expected {form.strengths}")
        remarks = " | ".join(report.remarks)
        if missing := [word for word in form.remarks if word not in remarks]:
            wrong.append(f"{name}: remarks {remarks!r} lack {missing}")
    assert not wrong, "\n".join(wrong)
    assert len(forms) > 170


def test_a_whole_weight_cannot_be_scaled(daemon, family, forms, tmp_path):
    spec = forms["whole-saved"].write(tmp_path / "saved")
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(family), "transformer", adapters=asked([(spec, 0.5)]), **OPTIONS)
    assert "cannot be scaled" in raised.value.details()


def test_one_adapter_may_not_replace_what_another_one_changes(daemon, family, forms, tmp_path):
    one, other = (forms[name].write(tmp_path / name) for name in ("whole-base-and-pair", "spelling-plain-AB"))
    for order in ((one, other), (other, one)):
        with pytest.raises(grpc.RpcError) as raised:
            daemon.load(str(family), "transformer", adapters=asked([(spec, 1.0) for spec in order]), **OPTIONS)
        assert "is replaced by one adapter" in raised.value.details()
