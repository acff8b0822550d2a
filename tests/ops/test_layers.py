"""Four layers merged, each value with its source; every refusal one line."""

from __future__ import annotations

import os
import string
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import NetstoreError
from netstore.ops.agent import AGENT
from netstore.ops.foreign import ForeignFlag
from netstore.ops.kinds import BadValue, Choice, FilePath, Several, Switch, Text, WholeNumber
from netstore.ops.layers import MAX_FILE_BYTES, Layered, Task, read_configuration, read_document
from netstore.ops.settings import BadSetting, check_settings, setting
from netstore.ops.store import STORE

# ruff: noqa: RUF009 - `setting` is a field specifier


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadValue(f"{text!r} is no digit")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kettle:
    """A configuration with one setting of each kind."""

    label: str = setting(Text("give a label", r"[a-z]+"), "tea", "Label.", variables=("POT_LABEL",))
    degrees: int = setting(
        WholeNumber(0, 100, "degrees"), 95, "Heat.", flags=("heat",), variables=("POT_HEAT",)
    )
    whistle: bool = setting(Switch(), True, "Sound.")
    shape: str = setting(Choice(("round", "tall")), "round", "Shape.")
    stand: Path | None = setting(FilePath(), None, "Where it stands.")
    cellar: Path | None = setting(FilePath(), None, "Where the tea is.", is_place=True)
    cups: tuple[int, ...] = setting(Several(_digits, "give digits", high=4), (), "Cups.")
    patterns: tuple[str, ...] = setting(
        Several(str, "give patterns", whole=True, joined=True), (), "Patterns."
    )
    spoons: tuple[int, ...] = setting(Several(_digits, "give digits", once=True), (), "Spoons.")
    tune: str = setting(Text("give a tune", r"[a-z]+"), "flat", "Tune.", needs=("whistle",))
    pin: str | None = setting(Text("give four digits", r"[0-9]{4}"), None, "Secret.", secret=True)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.degrees > 90 and self.shape == "tall":
            raise BadSetting("shape", "a tall kettle boils over", "heat it less")


def kettle(default_file: Path = Path("/nonexistent/kettle.toml")) -> Layered[Kettle]:
    return Layered(
        form=Kettle,
        program="kettled",
        about="Boils.",
        table="kettle",
        tables=("kettle", "cup"),
        prefix="NETSTORE_",
        siblings=("NETSTORE_CUP_", "NETSTORE_SPOON"),
        alias_prefix="POT_",
        original="pot",
        foreign=MappingProxyType(
            {
                "lid": ForeignFlag("there is no lid", ("", "off")),
                "steam": ForeignFlag("steam is free", None, switch=True),
                "tls": ForeignFlag("no TLS yet", ("false",), switch=True),
            }
        ),
        default_file=default_file,
    )


def refusal(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(NetstoreError) as caught:
        kettle().load(argv, environ or {})
    text = str(caught.value)
    assert text.isprintable()
    return text


def told(argv: list[str], environ: dict[str, str]) -> str:
    """What the operator is told: nothing when the configuration is fit to use."""
    try:
        kettle().load(argv, environ)
    except NetstoreError as error:
        return str(error)
    return ""


class TestLayers:
    def test_each_layer_wins_over_the_one_below(self, tmp_path: Path) -> None:
        file = tmp_path / "kettle.toml"
        file.write_text('[kettle]\nlabel = "file"\ndegrees = 1\nshape = "tall"\ncups = ["1"]\n')
        environ = {
            "POT_LABEL": "alias",
            "POT_HEAT": "2",
            "NETSTORE_DEGREES": "3",
            "NETSTORE_CONFIG_FILE": str(file),
        }
        loaded = kettle().load(["--heat=4"], environ)
        assert loaded.config == Kettle(label="alias", degrees=4, shape="tall", cups=(1,))
        assert loaded.sources == {
            "label": "environment POT_LABEL",
            "degrees": "flag --heat",
            "whistle": "default",
            "shape": f"file {file}",
            "stand": "default",
            "cellar": "default",
            "cups": f"file {file}",
            "patterns": "default",
            "spoons": "default",
            "tune": "default",
            "pin": "default",
        }

    def test_a_setting_that_has_no_effect_without_another_is_told(self) -> None:
        environ = {"NETSTORE_TUNE": "sharp"}
        told = ("tune (environment NETSTORE_TUNE) has no effect without whistle",)
        assert kettle().load(["--whistle=false"], environ).notices == told
        assert kettle().load([], environ).notices == ()
        assert kettle().load(["--whistle=false", "--tune=flat"], {}).notices == (), "as if it were not given"

    def test_own_variable_wins_over_the_alias(self) -> None:
        loaded = kettle().load([], {"POT_HEAT": "2", "NETSTORE_DEGREES": "3"})
        assert (loaded.config.degrees, loaded.sources["degrees"]) == (3, "environment NETSTORE_DEGREES")

    def test_empty_variable_is_not_set(self) -> None:
        assert kettle().load([], {"NETSTORE_DEGREES": "", "NETSTORE_CONFIG_FILE": ""}).config == Kettle()

    @pytest.mark.parametrize("layered", [STORE, AGENT], ids=lambda layered: layered.program)
    def test_every_variable_may_be_empty(self, layered: Layered[Any]) -> None:
        names = [name for each in layered.settings() for name in each.variables]
        names += [layered.alias_prefix + flag.upper().replace("-", "_") for flag in layered.foreign]
        for name in (*names, layered.file_variable, layered.original_variable or layered.file_variable):
            assert layered.load([], {name: ""}) == layered.load([], {}), name

    def test_default_file_is_read_only_when_it_exists(self, tmp_path: Path) -> None:
        file = tmp_path / "kettle.toml"
        assert kettle(file).load([], {}).config.degrees == 95
        file.write_text("[kettle]\ndegrees = 7\n")
        assert kettle(file).load([], {}).config.degrees == 7

    def test_flag_names_the_file_before_the_variable(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("[kettle]\ndegrees = 7\n")
        loaded = kettle().load(
            ["-config-file", str(tmp_path / "a")], {"NETSTORE_CONFIG_FILE": "/nonexistent"}
        )
        assert loaded.config.degrees == 7

    def test_error_across_settings_names_the_source_of_the_key(self) -> None:
        assert refusal(["--shape", "tall"]) == (
            "shape (flag --shape): a tall kettle boils over; heat it less"
        )

    def test_a_value_overridden_by_a_flag_is_still_checked(self) -> None:
        assert "environment NETSTORE_DEGREES" in refusal(["--degrees=1"], {"NETSTORE_DEGREES": "hot"})


class TestFlags:
    @pytest.mark.parametrize(
        "argv",
        [["--degrees", "5"], ["--degrees=5"], ["-degrees", "5"], ["-degrees=5"], ["-heat=9", "--degrees=+5"]],
    )
    def test_go_spelling(self, argv: list[str]) -> None:
        assert kettle().load(argv, {}).config.degrees == 5

    @pytest.mark.parametrize(
        ("text", "number"),
        [("0x1F", 31), ("0B11", 3), ("0o17", 15), ("010", 8), ("+0_7", 7), ("00", 0), ("1_0", 10), ("-0", 0)],
    )
    def test_numbers_of_go(self, text: str, number: int) -> None:
        assert kettle().load([f"--degrees={text}"], {}).config.degrees == number
        assert kettle().load([], {"POT_HEAT": text}).config.degrees == number

    @pytest.mark.parametrize(
        ("text", "value"), [("", True), ("=true", True), ("=T", True), ("=0", False), ("=F", False)]
    )
    def test_switch(self, text: str, value: bool) -> None:
        assert kettle().load([f"--whistle{text}"], {}).config.whistle is value

    def test_switch_takes_no_word_after_it(self) -> None:
        assert "write --flag=true or --flag=false" in refusal(["--whistle", "true"])

    def test_the_last_one_of_a_flag_counts(self) -> None:
        loaded = kettle().load(["--cups=1,2", "--cups", " 3 ", "--degrees=x", "--heat=3"], {})
        assert (loaded.config.cups, loaded.config.degrees) == ((3,), 3)
        assert loaded.sources["degrees"] == "flag --heat"

    def test_lists_that_are_joined(self) -> None:
        assert kettle().load(["--patterns=a,b", "--patterns=c"], {}).config.patterns == ("a,b", "c")

    def test_what_a_list_names_again_is_left_out(self, tmp_path: Path) -> None:
        assert kettle().load(["--cups=2,1,2, 1"], {}).config.cups == (2, 1)
        assert kettle().load([], {"NETSTORE_CUPS": "1,1"}).config.cups == (1,)
        (tmp_path / "f").write_text('[kettle]\ncups = ["1", "1"]\n')
        assert kettle().load([f"--config-file={tmp_path / 'f'}"], {}).config.cups == (1,)

    def test_an_empty_flag_takes_back_what_an_earlier_layer_gave(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text('[kettle]\nstand = "/nope"\nlabel = "file"\ncups = ["1"]\n')
        environ = {"NETSTORE_CONFIG_FILE": str(tmp_path / "f"), "NETSTORE_LABEL": "named"}
        loaded = kettle().load(["--stand=/x", "--stand=", "--label=", "--cups="], environ)
        assert loaded.config == Kettle()
        assert loaded.sources["stand"] == "default, as flag --stand is empty"

    def test_an_empty_flag_does_not_take_back_where_data_is(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text('[kettle]\ncellar = "/tea"\n')
        with pytest.raises(
            BadSetting, match=r"is empty, which takes back '/tea' \(file .*/f\).*leave the flag"
        ):
            kettle().load([f"--config-file={tmp_path / 'f'}", "--cellar="], {})
        with pytest.raises(BadSetting, match=r"takes back '/tea' \(environment NETSTORE_CELLAR\)"):
            kettle().load(["--cellar="], {"NETSTORE_CELLAR": "/tea"})
        with pytest.raises(BadSetting, match=r"takes back '/tea' \(flag --cellar\)"):
            kettle().load(["--cellar=/old", "--cellar=/tea", "--cellar="], {"NETSTORE_CELLAR": "/other"})
        assert kettle().load(["--cellar="], {}).config == Kettle()
        assert kettle().load(["--cellar=", "--cellar=/tea"], {}).config == Kettle(cellar=Path("/tea"))

    def test_what_is_given_is_what_has_a_value(self) -> None:
        loaded = kettle().load(["--stand=", "--label=x"], {"NETSTORE_DEGREES": "95"})
        assert loaded.given == {"label", "degrees"}

    def test_value_may_hold_equals_signs_and_begin_with_one_dash(self) -> None:
        loaded = kettle().load(["--stand=a=b", "--patterns", "-x"], {})
        assert (loaded.config.stand, loaded.config.patterns) == (Path("a=b"), ("-x",))

    @pytest.mark.parametrize(
        ("argv", "text"),
        [
            (["--degrees"], "flag --degrees needs a value"),
            (["--degrees", "--whistle"], "flag --degrees needs a value"),
            (["--degree=3"], "did you mean --degrees?"),
            (["--hea=3"], "did you mean --heat?"),
            (["--zzzzzzzz"], "see --help"),
            (["boil"], "takes no other words"),
            (["--"], "takes no other words"),
            ([""], "takes no other words"),
            (["---degrees=1"], "takes no other words"),
            (["--degrees=101"], "101 is out of range; give a whole number of degrees"),
            (["--degrees=08"], "'08' is not a whole number"),
            (["--degrees=1__0"], "'1__0' is not a whole number"),
            (["--degrees=10_"], "'10_' is not a whole number"),
            (["--degrees=0x"], "'0x' is not a whole number"),
            (["--degrees= 5"], "' 5' is not a whole number"),
            (["--degrees=1e1"], "'1e1' is not a whole number"),
            (["--degrees=0x" + "f" * 500], "is not a whole number"),
            (["--degrees=\u0661"], "is not a whole number"),
            (["--degrees=" + "9" * 5000], "is not a whole number"),
            (["--degrees="], "degrees (flag --degrees): is empty"),
            (["--whistle=yes"], "'yes' is not true or false"),
            (["--shape=square"], "'square' is not known; give one of round, tall"),
            (["--label=A"], "'A' is not usable; give a label"),
            (["--label=a\nb"], "cannot be printed"),
            (["--label=" + "a" * 70_000], "is longer than 65536 characters"),
            (["--stand=" + "x" * 5000], "is longer than 4095 bytes"),
            (["--cups=1,,2"], "has an empty item"),
            (["--spoons=1,1"], "names '1' twice"),
            (["--cups=1,2,3,4,5"], "has 5 items, at most 4 can be used"),
            (["--check-config=yes"], "flag --check-config: 'yes' is not true or false; give true or false"),
            (["--version="], "flag --version: is empty; give true or false"),
            (["--version", "--json=maybe"], "flag --json: 'maybe' is not true or false"),
            (["--help=on"], "flag --help: 'on' is not true or false"),
            (["--config-file=/nonexistent/x"], "cannot read the configuration file '/nonexistent/x'"),
            (["--config-file=a\0b"], "is not the name of a file"),
            (["--config-file=/"], "is a folder, not a file"),
        ],
    )
    def test_refusals(self, argv: list[str], text: str) -> None:
        assert text in refusal(argv)

    def test_help_wins_over_what_is_wrong_elsewhere(self) -> None:
        for word in ("-h", "--h", "-help", "--help", "--help=true"):
            assert kettle().load(["--degrees=hot", word], {"NETSTORE_X": "1"}).task is Task.HELP

    def test_version_and_check_config(self) -> None:
        assert kettle().load(["--version"], {"NETSTORE_X": "1"}).task is Task.VERSION
        assert kettle().load(["--check-config"], {}).task is Task.CHECK
        for word in ("--check-config=false", "--version=0", "--help=F"):
            assert kettle().load([word], {}).task is Task.RUN
        assert kettle().load(["--version", "--version=false"], {}).task is Task.RUN, "the last one counts"

    @given(
        st.lists(
            st.text(max_size=20) | st.sampled_from(["--degrees", "--cups=", "-pin", "--tls", "--lid"]),
            max_size=6,
        )
    )
    def test_any_words_give_a_configuration_or_one_line(self, argv: list[str]) -> None:
        assert told(argv, {}).isprintable()


class TestEnvironment:
    def test_unknown_variable_names_the_nearest(self) -> None:
        assert refusal([], {"NETSTORE_DEGRES": "1"}) == (
            "unknown variable 'NETSTORE_DEGRES': did you mean NETSTORE_DEGREES?"
        )

    def test_unknown_variable_that_the_original_has_tells_the_reason(self) -> None:
        assert refusal([], {"NETSTORE_TLS": "1"}) == "unknown variable 'NETSTORE_TLS': no TLS yet"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("NETSTORE_CUP_SIZE", "1"),
            ("NETSTORE_SPOON", "1"),
            ("NETSTORE_SERVICE_HOST", "10.0.0.1"),
            ("NETSTORE_CLIENT_SERVICE_PORT_HTTP", "2379"),
            ("NETSTORE_PORT", "tcp://10.0.0.1:2379"),
            ("NETSTORE_PORT_2379_TCP_ADDR", "10.0.0.1"),
        ],
    )
    def test_what_belongs_to_others_is_left_alone(self, name: str, value: str) -> None:
        loaded = kettle().load([], {name: value, name.replace("NETSTORE", "POT"): value})
        assert loaded.config == Kettle()

    def test_a_port_that_is_no_service_link_is_refused(self) -> None:
        assert "NETSTORE_PORT" in refusal([], {"NETSTORE_PORT": "2379"})

    def test_alias_nobody_knows_is_only_noticed(self) -> None:
        loaded = kettle().load([], {"POT_COLOUR": "red"})
        assert loaded.notices == ("POT_COLOUR is not a variable that kettled knows, and has no effect",)

    @given(
        st.dictionaries(
            st.sampled_from(["NETSTORE_", "POT_", ""]).flatmap(
                lambda prefix: st.text(string.ascii_uppercase + "_", max_size=9).map(
                    lambda rest: prefix + rest
                )
            )
            | st.sampled_from(
                ["NETSTORE_DEGREES", "NETSTORE_CUPS", "NETSTORE_STAND", "POT_LABEL", "POT_TLS"]
            ),
            st.text(max_size=20),
            max_size=4,
        )
    )
    def test_any_environment_gives_a_configuration_or_one_line(self, environ: dict[str, str]) -> None:
        assert told([], environ).isprintable()


class TestForeignFlags:
    def test_harmless_ones_are_noticed(self) -> None:
        loaded = kettle().load(["--lid=off", "--steam", "--tls=false"], {"POT_LID": "off"})
        assert loaded.notices == (
            "POT_LID has no effect: there is no lid",
            "--lid has no effect: there is no lid",
            "--steam has no effect: steam is free",
            "--tls has no effect: no TLS yet",
        )

    def test_the_last_value_counts(self) -> None:
        told = ("--tls has no effect: no TLS yet",)
        assert kettle().load(["--tls", "--tls=false"], {}).notices == told

    @pytest.mark.parametrize("argv", [["--tls"], ["--tls=true"], ["--tls=false", "--tls"]])
    def test_others_are_refused(self, argv: list[str]) -> None:
        assert refusal(argv) == "--tls is of pot and not supported by kettled: no TLS yet"

    def test_by_variable_too(self) -> None:
        assert refusal([], {"POT_TLS": "true"}).startswith("POT_TLS is of pot and not supported")


class TestFile:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[kettle]\ndegres = 1", "unknown key 'degres': did you mean degrees?"),
            ('[kettle]\n"de\\ngrees" = 1', "unknown key 'de\\ngrees'"),
            ("[kettle]\ntls = 1", "unknown key 'tls': no TLS yet"),
            ("[kettel]", "unknown table 'kettel': did you mean kettle?"),
            ("degrees = 1", "unknown table 'degrees'"),
            ("kettle = 1", "kettle is not a table; write [kettle]"),
            ("[[kettle]]", "kettle is not a table"),
            ("[kettle", "is not TOML"),
            ("[kettle]\ndegrees = " + "9" * 5000, "is not TOML"),
            ("a = " + "[" * 100_000, "{file}' is not TOML: nested too deep"),
            ("[kettle]\ndegrees = true", "True is not a whole number"),
            ("[kettle]\ndegrees = 1.0", "1.0 is not a whole number"),
            ('[kettle]\ndegrees = "1"', "'1' is not a whole number"),
            ("[kettle]\nwhistle = 1", "1 is not true or false"),
            ("[kettle]\nlabel = 1", "1 is not text"),
            ("[kettle]\nstand = []", "[] is not text"),
            ("[kettle]\nshape = 1979-05-27", "is not text"),
            ("[kettle]\ncups = 1", "1 is not a list"),
            ("[kettle]\ncups = [1]", "1 is not text"),
            ("[kettle]\ncups = [[]]", "[] is not text"),
            ('[kettle]\npin = "letmein"', "pin (file {file}): is not usable; give four digits"),
        ],
    )
    def test_refusals_name_the_file(self, tmp_path: Path, text: str, problem: str) -> None:
        file = tmp_path / "kettle.toml"
        file.write_text(text)
        line = refusal([f"--config-file={file}"])
        assert str(file) in line
        assert problem.format(file=file) in line
        assert "letmein" not in line

    def test_tables_of_other_programs_are_left_to_them(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text('[cup]\nsize = "big"\n')
        assert kettle().load([f"--config-file={tmp_path / 'f'}"], {}).config == Kettle()

    def test_not_utf8_names_the_byte(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"[kettle]\n#\xff")
        with pytest.raises(NetstoreError, match="is not UTF-8 text at byte 10"):
            read_document("f", (tmp_path / "f").read_bytes())

    def test_too_long(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
        with pytest.raises(NetstoreError, match=f"is longer than {MAX_FILE_BYTES} bytes"):
            read_configuration(str(tmp_path / "f"))

    @pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
    def test_a_pipe_is_read_once(self, name: str) -> None:
        reading, writing = os.pipe()
        os.write(writing, b"[kettle]\nlabel = 'piped'\n")
        os.close(writing)
        try:
            named = name.format(reading)
            loaded = kettle().load([f"--config-file={named}"], {})
            assert (loaded.config.label, loaded.sources["label"]) == ("piped", f"file {named}")
            with pytest.raises(NetstoreError, match="is empty, as of a command that failed; name a file"):
                kettle().load([f"--config-file={named}"], {})
        finally:
            os.close(reading)

    def test_the_null_device_stands_for_no_settings(self) -> None:
        loaded = kettle().load([f"--config-file={os.devnull}"], {})
        assert loaded.sources["label"] == "default"

    def test_a_pipe_of_another_process_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "f")
        with pytest.raises(NetstoreError, match="is a pipe, not a regular file; name a file of settings"):
            read_configuration(str(tmp_path / "f"))

    def test_an_empty_file_has_no_settings(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        assert kettle().load([f"--config-file={tmp_path / 'f'}"], {}).config == Kettle()


class TestWords:
    def test_report_is_toml_that_gives_the_same_configuration(self, tmp_path: Path) -> None:
        argv = ['--stand=/a "b"\\c', "--cups=1,2", "--degrees=3", "--patterns=a,b", "--whistle=false"]
        loaded = kettle().load(argv, {})
        file = tmp_path / "f"
        file.write_text(kettle().report(loaded))
        assert kettle().load([f"--config-file={file}"], {}).config == loaded.config

    def test_report_aligns_sources_and_hides_secrets(self) -> None:
        report = kettle().report(kettle().load(["--pin=1234", "--degrees=3"], {}))
        assert "1234" not in report
        assert "# pin is set and not shown" in report
        lines = report.splitlines()[1:]
        assert (
            len({line.index("  # ") if not line.startswith("#") else line.rindex("  # ") for line in lines})
            == 1
        )
        assert any(line.startswith("degrees = 3 ") and line.endswith("# flag --degrees") for line in lines)

    def test_usage_names_every_flag_and_variable(self) -> None:
        usage = kettle().usage()
        for each in kettle().settings():
            assert all(f"--{flag}" in usage for flag in each.flags)
            assert all(name in usage for name in each.variables)

    def test_a_secret_is_not_told_when_it_is_refused(self) -> None:
        assert refusal(["--pin=12345"]) == "pin (flag --pin): is not usable; give four digits"
