"""Each flag and variable of flanneld has an answer."""

from __future__ import annotations

import pytest

from netstore.errors import NetstoreError
from netstore.ops.agent import AGENT
from netstore.ops.flannel_flags import DIFFERENCES, FLAGS, FLANNEL_ONLY
from netstore.ops.kinds import FALSE
from netstore.ops.layers import OWN_FLAGS

SERVED = {flag for each in AGENT.settings() for flag in each.flags} | set(OWN_FLAGS)


def variable(flag: str) -> str:
    return "FLANNELD_" + flag.upper().replace("-", "_")


def test_a_flag_has_one_answer() -> None:
    assert set(FLAGS) - SERVED - set(FLANNEL_ONLY) == set()
    assert set(FLANNEL_ONLY) - set(FLAGS) == set()
    assert SERVED & set(FLANNEL_ONLY) == set()
    assert set(DIFFERENCES) <= SERVED & set(FLAGS)


@pytest.mark.parametrize("flag", sorted(set(FLAGS) & SERVED - set(OWN_FLAGS)))
def test_a_variable_of_a_served_flag_is_read(flag: str) -> None:
    [setting] = [each for each in AGENT.settings() if flag in each.flags]
    assert variable(flag) in setting.variables


@pytest.mark.parametrize("flag", sorted(FLANNEL_ONLY))
def test_a_flag_without_a_setting_is_accepted_with_a_notice_or_refused_with_the_reason(flag: str) -> None:
    foreign = FLANNEL_ONLY[flag]
    for source in ([f"--{flag}=x"], [f"-{flag}", *(() if foreign.switch else ("x",))]):
        if foreign.harmless is None:
            assert AGENT.load(source, {}).notices == (f"--{flag} has no effect: {foreign.reason}",)
        else:
            with pytest.raises(NetstoreError, match=f"--{flag} is of flannel and not supported"):
                AGENT.load(source, {})
    for harmless in foreign.harmless or ():
        assert foreign.reason in AGENT.load([f"--{flag}={harmless}"], {}).notices[0]
    if foreign.harmless is None:
        assert variable(flag) in AGENT.load([], {variable(flag): "x"}).notices[0]
    else:
        with pytest.raises(NetstoreError, match=variable(flag)):
            AGENT.load([], {variable(flag): "x"})


@pytest.mark.parametrize("word", sorted(FALSE))
def test_every_word_of_go_for_false_counts(word: str) -> None:
    assert len(AGENT.load([f"--kube-subnet-mgr={word}"], {"FLANNELD_KUBE_SUBNET_MGR": word}).notices) == 2


def test_the_variable_of_unit_files_is_no_notice() -> None:
    assert AGENT.load(["--ip-masq"], {"FLANNELD_OPTIONS": "--ip-masq"}).notices == ()
    assert len(AGENT.load([], {"FLANNELD_OTHER": "x"}).notices) == 1
