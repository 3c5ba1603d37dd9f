"""One host's life as its control plane sees it: order in, reports out, engines between."""



from tests.agents.fakes import order
from tests.agents.host import AgentHost, host  # noqa: F401 - a fixture


class TestARunningOrder:
    async def test_goes_through_every_phase_to_ready(self, host: AgentHost) -> None:  # noqa: F811
        await host.control_plane.order(order())

        await host.start()
        report = await host.control_plane.until_phase("r1", "ready")

        phases = [phase for _, _, phase in host.control_plane.history]
        assert phases == ["pending", "fetching", "starting", "ready"] or phases[-3:] == [
            "fetching",
            "starting",
            "ready",
        ]
        assert report.endpoint is not None
        assert report.endpoint.relay_url == "http://relay:1/r/r1"
        assert report.engine_version == "1.2.3"
