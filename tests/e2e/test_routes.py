"""Which route a request takes beside its host and path, and the path that servers get."""

import pytest

from rig import gate, http


def routes(*conditions):
    """Routes with these settings; a server learns the name of the route from `X-Route`."""
    return [
        {"name": name, "upstream": "main", "request_set": {"X-Route": name}} | settings for name, settings in conditions
    ]


def plain(method, target, headers=()):
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a.test", *headers, "", ""]).encode()


def taken(rig, sent, path, *, is_upgrade=False):
    """The head that the server gets for this request, with this target; its `x-route` names the route."""
    client = rig.connect()
    client.send(sent)
    server, head = rig.server.accept_request(path)
    if is_upgrade:
        server.send(http.switching_protocols(head))
    else:
        server.send(http.response("200 OK", b"", headers={"Connection": "close"}))
        server.close()
    assert client.read_head().status == (101 if is_upgrade else 200)
    return head


CONDITIONS = routes(
    ("any", {}),
    ("header", {"match_headers": {"X-Tenant": "acme"}}),
    ("header and query", {"match_headers": {"X-Tenant": "acme"}, "match_query": {"v": "2"}}),
    ("query", {"match_query": {"debug": "*"}}),
    ("method", {"methods": ["PUT", "DELETE"]}),
    ("graphql", {"subprotocols": ["graphql-transport-ws"], "path": "/"}),
    ("below", {"path": "/below"}),
)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (("GET", "/{}"), "any"),
        (("GET", "/{}", ["x-tenant: acme"]), "header"),
        (("GET", "/{}", ["X-Tenant: other"]), "any"),
        (("GET", "/{}?v=2", ["X-Tenant: acme"]), "header and query"),
        (("GET", "/{}?v=2"), "any"),
        (("GET", "/{}?debug"), "query"),
        (("GET", "/{}?a&debug=0"), "query"),
        (("PUT", "/{}", ["Content-Length: 0"]), "method"),
        # A longer path counts more than a condition.
        (("GET", "/below/{}?debug", ["X-Tenant: acme"]), "below"),
    ],
)
def test_conditions_choose_the_route(start_rig, sent, name):
    rig = start_rig(routes=CONDITIONS)
    method, target, *headers = sent
    target = target.format(rig.new_path().strip("/"))
    head = taken(rig, plain(method, target, *headers), target)
    assert head.get("x-route") == name


def test_a_subprotocol_chooses_the_route(start_rig):
    rig = start_rig(routes=CONDITIONS)
    for offered, name in [("soap, graphql-transport-ws", "graphql"), ("soap", "any"), (None, "any")]:
        session = rig.open(request={"headers": {"Sec-WebSocket-Protocol": offered}})
        assert session.request.get("x-route") == name
        session.finish()


def test_without_a_route_whose_conditions_hold_there_is_none(start_rig):
    rig = start_rig(routes=routes(("v2", {"match_query": {"v": "2"}})))
    client = rig.connect()
    client.send(plain("GET", "/?v=1"))
    assert client.read_head().status == 404
    client, _ = rig.request(path="/?v=1")
    assert client.read_head().status == 404


@pytest.mark.parametrize("is_upgrade", [False, True])
@pytest.mark.parametrize(
    ("settings", "target", "expected", "prefix"),
    [
        ({"path": "/api", "replace_path": "/"}, "/api/a/b?c=/api", "/a/b?c=/api", "/api"),
        ({"path": "/api", "replace_path": "/"}, "/api?x", "/?x", "/api"),
        ({"path": "/api", "replace_path": "/v2"}, "/api/%41", "/v2/%41", "/api"),
        ({"path": "/api", "replace_path": "/"}, "/api//evil.example/a", "/evil.example/a", "/api"),
        ({"path": "/", "replace_path": "/v2"}, "/a", "/v2/a", ""),
        ({"path": "/api"}, "/api/a", "/api/a", None),
    ],
)
def test_servers_get_the_path_with_its_beginning_replaced(start_rig, is_upgrade, settings, target, expected, prefix):
    rig = start_rig(routes=routes(("api", settings)))
    claims = {"X-Forwarded-Prefix": "/forged"}
    if is_upgrade:
        sent = http.upgrade_request(target, headers=claims)
    else:
        sent = plain("GET", target, [f"{name}: {value}" for name, value in claims.items()])
    head = taken(rig, sent, expected, is_upgrade=is_upgrade)
    assert head.get("x-forwarded-prefix") == prefix


def test_check_names_the_route_of_a_url_with_its_query(tmp_path):
    file = tmp_path / "wsgate.toml"
    file.write_text(gate.config(["127.0.0.1:9000"], routes=CONDITIONS + routes(("api", {"path": "/api", "replace_path": "/"}))))
    for url, found in [
        ("https://a.test/?debug=1", "route `query`"),
        ("https://a.test/", "route `any`"),
        ("https://a.test/api/x?y", "route `api`, upstream `main`: 127.0.0.1:9000; servers get `/x?y`"),
    ]:
        status, output = gate.run(["check", "--config", str(file), "--route", url])
        assert status == 0 and found in output, output
