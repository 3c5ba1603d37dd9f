"""Default prices by GPU kind."""

from decimal import Decimal

import pytest

from apps.fleet.prices import CPU_KIND, UNKNOWN_GPU_USD_PER_HOUR, PriceBook, kind_of


class TestKindOf:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("NVIDIA A100-SXM4-40GB", "a100"),
            ("NVIDIA GeForce RTX 4090", "rtx 4090"),
            ("NVIDIA L40S", "l40s"),
            ("NVIDIA L4", "l4"),
            ("NVIDIA RTX 6000 Ada Generation", "rtx 6000 ada"),
            ("Tesla T4", "t4"),
            ("NVIDIA GH200 480GB", "gh200"),
            ("NVIDIA Titan X", "titan x"),
        ],
    )
    def test_reads_the_kind_from_the_drivers_name(self, name, kind):
        assert kind_of(name) == kind


class TestPriceBook:
    def test_prices_a_host_without_gpus_as_a_cpu_host(self):
        assert PriceBook({}).of_host(None, []) == (Decimal("0.05"), True)

    def test_adds_the_gpus_of_a_host(self):
        price, is_default = PriceBook({"h100": Decimal(2)}).of_host(None, ["NVIDIA H100 PCIe"] * 4)

        assert (price, is_default) == (Decimal(8), True)

    def test_takes_the_hosts_own_price_before_any_default(self):
        assert PriceBook({CPU_KIND: Decimal(9)}).of_host(Decimal("0.3"), []) == (
            Decimal("0.3"),
            False,
        )

    def test_prices_a_card_that_no_table_knows(self):
        assert PriceBook({}).of_host(None, ["NVIDIA Titan X"]) == (UNKNOWN_GPU_USD_PER_HOUR, True)

    def test_lets_an_admin_price_a_card_that_no_table_knows(self):
        book = PriceBook({"titan x": Decimal("0.11")})

        assert book.of_host(None, ["NVIDIA Titan X"]) == (Decimal("0.11"), True)

    def test_honours_a_price_of_nothing(self):
        assert PriceBook({}).of_host(Decimal(0), []) == (Decimal(0), False)
