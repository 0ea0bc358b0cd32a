"""An ASGI application that echoes, for hypercorn, which serves it over HTTP/1.1 and HTTP/2."""


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"over HTTP/{scope['http_version']}".encode()})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-http-version", scope["http_version"].encode())]})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
