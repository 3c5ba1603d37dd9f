"""The command line and the environment: what they mean, and what is told when they are wrong."""

from pathlib import Path

import pytest

from agents import settings
from agents.settings import DEFAULT_IMAGES, UsageError
from agents.wire import RuntimeKind

URL = ("--control-plane", "http://cp:8000", "--data-dir", "/d")


class TestRead:
    def test_takes_the_command_line(self) -> None:
        given = settings.read(
            [*URL, "--name", "gpu-1", "--runtime", "docker", "--join-token", "t",
             "--relay-listen", "10.0.0.5:9000", "--relay-public-url", "https://gpu-1/"],
            {},
        )  # fmt: skip

        assert given.control_plane == "http://cp:8000"
        assert given.data_dir == Path("/d")
        assert (given.host_name, given.join_token) == ("gpu-1", "t")
        assert given.runtime is RuntimeKind.DOCKER
        assert given.relay_listen == ("10.0.0.5", 9000)
        assert given.relay_public_url == "https://gpu-1"

    def test_takes_the_environment_where_the_command_line_is_silent(self) -> None:
        given = settings.read(
            [],
            {
                "HEARTH_CONTROL_PLANE_URL": "unix:/run/cp.sock",
                "HEARTH_AGENT_DIR": "/a",
                "HEARTH_HOST_NAME": "h",
                "HEARTH_RUNTIME": "process",
                "HEARTH_JOIN_TOKEN": "t",
            },
        )

        assert given.control_plane == "unix:/run/cp.sock"
        assert given.data_dir == Path("/a")
        assert (given.host_name, given.join_token) == ("h", "t")
        assert given.runtime is RuntimeKind.PROCESS

    def test_prefers_the_command_line(self) -> None:
        given = settings.read([*URL, "--name", "a"], {"HEARTH_HOST_NAME": "b"})

        assert given.host_name == "a"

    def test_has_safe_defaults(self) -> None:
        given = settings.read([*URL], {})

        assert given.runtime is None
        assert given.relay_listen == ("127.0.0.1", 0)
        assert given.policy.allowed_images == DEFAULT_IMAGES
        assert given.policy.weights_roots == (Path("/d"),)
        assert not given.stop_process_replicas

    @pytest.mark.parametrize(
        ("env", "expected"),
        [
            ({}, "127.0.0.1"),
            ({"HEARTH_RELAY_LISTEN": "10.0.0.5:9000"}, "10.0.0.5"),
            (
                {
                    "HEARTH_RELAY_LISTEN": "0.0.0.0:9000",
                    "HEARTH_RELAY_PUBLIC_URL": "https://gpu-1:9000",
                },
                "gpu-1",
            ),
            ({"HEARTH_RELAY_LISTEN": "0.0.0.0:9000"}, ""),
            ({"HEARTH_GROUP_ADDRESS": "10.1.0.5"}, "10.1.0.5"),
        ],
        ids=["here alone", "the relay's", "the relay's public one", "unknown", "as given"],
    )
    def test_engines_of_other_hosts_come_the_way_that_gateways_do(self, env, expected) -> None:
        assert settings.read([*URL], env).group_address == expected

    @pytest.mark.parametrize("words", ["29500", "80-90", "2-1", "30000-29999", "29500-70000"])
    def test_ports_for_groups_must_be_a_range(self, words: str) -> None:
        with pytest.raises(UsageError, match="HEARTH_GROUP_PORTS"):
            settings.read([*URL], {"HEARTH_GROUP_PORTS": words})

    def test_takes_the_policy_of_the_host_from_its_environment(self) -> None:
        given = settings.read(
            [*URL],
            {
                "HEARTH_ALLOWED_IMAGES": "registry.lan/vllm, hearth/",
                "HEARTH_WEIGHTS_ROOTS": "/models:/srv/more",
                "HEARTH_ENGINE_IMAGE_CUDA": "registry.lan/vllm:1",
            },
        )

        assert given.policy.allowed_images == ("registry.lan/vllm", "hearth/")
        assert given.policy.weights_roots[1:] == (Path("/models"), Path("/srv/more"))
        assert given.policy.engine_images == {"cuda": "registry.lan/vllm:1"}

    def test_needs_no_control_plane_to_drain_and_stop(self) -> None:
        given = settings.read(["--data-dir", "/d", "drain-and-stop"], {})

        assert given.command == "drain-and-stop"

    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            (["--control-plane", "http://cp"], "--data-dir"),
            (["--data-dir", "/d"], "--control-plane"),
            (["--data-dir", "/d", "--control-plane", "cp:8000"], "use http"),
            ([*URL, "--name", "a b"], "no host name"),
            ([*URL, "--runtime", "podman"], "auto, docker or process"),
            ([*URL, "--relay-listen", "9000"], "HOST:PORT"),
            ([*URL, "--relay-listen", "h:70000"], "HOST:PORT"),
            ([*URL, "--relay-tls-cert", "/c"], "give both"),
            ([*URL, "--relay-tls-cert", "/no/c", "--relay-tls-key", "/no/k"], "readable PEM"),
        ],
    )
    def test_says_what_to_mend(self, argv: list[str], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            settings.read(argv, {})


class TestRunRoot:
    def test_stands_in_the_data_folder(self) -> None:
        assert settings.read([*URL], {}).run_root == Path("/d/run")

    def test_is_short_enough_for_a_socket_however_long_the_data_folder_is(self) -> None:
        given = settings.read(["--control-plane", "http://c", "--data-dir", "/d" * 90], {})

        socket = given.run_root / ("x" * 40 + "-g99999") / "engine.sock"
        assert len(str(socket)) <= 104
