"""Which calls go through an HTTP proxy: the forms that other programs read."""

import pytest

from relay.errors import ProxyError
from relay.feishu.proxies import Proxy, proxy_for, through

FEISHU = "https://open.feishu.cn"
PROXY = "http://proxy.corp:3128"


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        (FEISHU, {}, None),
        (FEISHU, {"HTTPS_PROXY": PROXY}, PROXY),
        (FEISHU, {"https_proxy": PROXY}, PROXY),
        (FEISHU, {"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        (FEISHU, {"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        (FEISHU, {"HTTP_PROXY": PROXY}, None),
        (FEISHU, {"HTTPS_PROXY": "proxy.corp:3128"}, PROXY),
        (FEISHU, {"HTTPS_PROXY": f" {PROXY}/ "}, f"{PROXY}/"),
        (FEISHU, {"HTTPS_PROXY": "https://proxy.corp"}, "https://proxy.corp"),
        (FEISHU, {"HTTPS_PROXY": "HTTP://proxy.corp:1"}, "HTTP://proxy.corp:1"),
        (FEISHU, {"HTTPS_PROXY": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128"),
        ("wss://msg-frontier.feishu.cn/ws/v2?a=b", {"HTTPS_PROXY": PROXY}, PROXY),
        ("http://idp.corp/token", {"HTTPS_PROXY": PROXY}, None),
        ("http://idp.corp/token", {"HTTP_PROXY": PROXY}, PROXY),
        ("ws://feishu.corp", {"http_proxy": PROXY}, PROXY),
        ("http://127.0.0.1:8080", {"HTTP_PROXY": PROXY}, None),
        ("http://127.9.9.9", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1]:8080", {"HTTP_PROXY": PROXY}, None),
        ("wss://[", {"HTTPS_PROXY": PROXY}, None),
        ("wss://a:port", {"HTTPS_PROXY": PROXY}, None),
        ("https://localhost", {"HTTPS_PROXY": PROXY}, None),
    ],
)
def test_variables_are_read_as_elsewhere(
    url: str, variables: dict[str, str], expected: str | None
) -> None:
    proxy = proxy_for(url, variables)
    assert (proxy and proxy.url) == expected
    assert through(proxy) == expected


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        (FEISHU, "feishu.cn", True),
        (FEISHU, ".feishu.cn", True),
        (FEISHU, "*.feishu.cn", True),
        (FEISHU, "OPEN.feishu.cn", True),
        (FEISHU, "a.b, open.feishu.cn", True),
        (FEISHU, "a.b open.feishu.cn", True),
        (FEISHU, "*", True),
        (FEISHU, "a.b,*", True),
        (FEISHU, "open.feishu.cn:443", True),
        (FEISHU, "open.feishu.cn:8443", False),
        (f"{FEISHU}:8443", ".feishu.cn:8443", True),
        (FEISHU, "eishu.cn", False),
        (FEISHU, "www.open.feishu.cn", False),
        (FEISHU, "", False),
        (FEISHU, " , .,[]", False),
        (FEISHU, "10.0.0.0/8", False),
        (FEISHU, "*feishu", False),
        ("https://open.feishu.cn.", "feishu.cn", True),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3:8443", "10.1.2.3:443", False),
        ("https://10.1.2.3", "10.1.2.4/30", False),
        ("https://10.1.2.3", "1.2.3", False),
        ("https://10.1.2.3", "fd00::/8", False),
        ("https://[fd00::1]:8443", "fd00::/8", True),
        ("https://[fd00::1]:8443", "[fd00::1]:8443", True),
        ("https://[fd00::1]:8443", "[fd00::1]", True),
        ("https://[fd00::1]:8443", "fd00::1", True),
        ("https://[fd00::1]:8443", "[fd00::1]:1", False),
        ("wss://msg-frontier.feishu.cn/ws", "msg-frontier.feishu.cn:443", True),
    ],
)
def test_no_proxy_has_names_addresses_networks_and_ports(
    url: str, no_proxy: str, *, direct: bool
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (proxy_for(url, {"HTTPS_PROXY": PROXY, name: no_proxy}) is None) is direct


@pytest.mark.parametrize("user", ["", "me:pass-word@", "me:pass%40word@"])
def test_password_is_not_in_the_text(user: str) -> None:
    proxy = proxy_for(FEISHU, {"HTTPS_PROXY": f"http://{user}proxy.corp:3128"})
    assert proxy == Proxy(f"http://{user}proxy.corp:3128", "proxy.corp:3128")
    assert f"{proxy} {proxy!r}".count("pass") == 0


@pytest.mark.parametrize(
    "text",
    [
        "socks5://me:pass-word@proxy:1080",
        "http://me:pass-word@",
        "http://me:pass-word@proxy:port",
        "http://me:pass-word@proxy:1/path",
        "http://me:pass-word@proxy:99999",
        "http://me:pass@word@proxy:1",
        "me:pass-word@a b",
    ],
)
def test_proxy_that_cannot_be_used_is_named_by_its_variable(text: str) -> None:
    with pytest.raises(ProxyError, match=r"^HTTPS_PROXY ") as mistake:
        proxy_for(FEISHU, {"HTTPS_PROXY": text})
    assert "pass" not in str(mistake.value)
