"""Bytes that readers like, to begin damage with: the repository's own examples, and each reader's own kinds."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec

from batchrunner.simulator.catalog import Catalog

_JOBS = Path(__file__).parents[2] / "jobs"

JOB_FILES = [
    *((_JOBS / name).read_bytes() for name in ("chat.jsonl", "messages.jsonl", "mixed.jsonl", "responses.jsonl")),
    b'\xef\xbb\xbf{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":["x"]}}\r\n\r\n',
    b'{"custom_id":"\\u0061\xc3\xa9","params":{"model":"m","max_tokens":1,"messages":[]},"batchrun":{"priority":3,"timeout":2.5}}',
    b'{"custom_id":"a","url":"/v1/responses","body":{"input":"x","n":2},"batchrun":{"account":"b","max_attempts":2},"x":[{}]}\n',
]
DEEP = b'{"a":' * 600 + b"[" * 600 + b"]" * 600 + b"}" * 600
JOB_FILES += [
    b'{"custom_id":"a","url":"/v1/responses","body":{"input":' + b"[" * 1500 + b"]" * 1500 + b"}}\n",
    b'{"custom_id":"a","params":{"messages":' + b"[" * 1500 + b"]" * 1500 + b'},"x":1}',
]
JOB_WORDS = [
    *(b'"custom_id"', b'"url"', b'"method"', b'"POST"', b'"GET"', b'"body"', b'"params"', b'"batchrun"', b'"stream"', b'"model"'),
    *(b'"/v1/messages"', b'"/v1/../x"', b'"/v1/models"', b'"/v1/%2e%2e"', b'"background":true,', b'"timeout":', b'"max_tokens":'),
    *(b'"messages":[{"role":"user","content":[{"type":"image_url","image_url":"data:image/png;base64,AA"}]}]', b'"input":'),
]

CHAT = (
    b'{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,'
    b'"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}},"tool_usage":{"web":2}}'
)
_MESSAGE = (
    b'{"id":"m","type":"message","content":[{"type":"text","text":"hi"}],"stop_reason":"max_tokens",'
    b'"usage":{"input_tokens":5,"cache_read_input_tokens":2,"cache_creation_input_tokens":1,"output_tokens":7}}'
)
_RESPONSE = (
    b'{"id":"r","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[{"type":"message",'
    b'"content":[{"type":"output_text","text":"hi"}]}],"usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12,'
    b'"input_tokens_details":{"cached_tokens":0},"output_tokens_details":{"reasoning_tokens":2}}}'
)
_BODIES = [
    CHAT,
    _MESSAGE,
    _RESPONSE,
    b'{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3,"total_tokens":3}}',
    b'{"output":{"results":[]},"usage":{"total_tokens":7},"request_id":"q"}',
    b'{"error":{"code":"rate_limit_exceeded","message":"Slow down.","type":"requests","param":null}}',
    b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    b'{"error":"no such model"}',
    b'{"detail":"Not Found"}',
    b'{"message":"no","error":{"code":402,"message":"Your credit balance is too low"}}',
    b"<html><body>502</body></html>",
    b'{"error":{"message":' + DEEP + b"}}",
    b'{"choices":' + DEEP + b',"usage":' + DEEP + b"}",
]
_HEADS = [b"content-type: application/json\nx-request-id: req_1", b"retry-after: 7\nrequest-id: a", b"retry-after-ms: 20"]
#: status/2, headers, an empty line, body
REPLIES = [bytes([status]) + _HEADS[status % 3] + b"\n\n" + body for body in _BODIES for status in (50, 200, 164, 201)]
REPLY_WORDS = [
    *(b'"usage":', b'"prompt_tokens":', b'"input_tokens":', b'"output_tokens":', b'"completion_tokens":', b'"total_tokens":'),
    *(b'"error":', b'"code":', b'"message":', b'"type":', b'"choices":', b'"finish_reason":', b'"content":', b'"id":', b"\n\n"),
    *(b'"cached_tokens":', b'"reasoning_tokens":', b'"tool_usage":', b'"insufficient_quota"', b'"invalid_api_key"', b"{}", b"[]"),
]

_DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
HINTS = [
    *(b"7\n" + _DATE, b"1.5\n", b"6m0s\n", b"2026-01-02T03:04:05Z\n", _DATE + b"\n" + _DATE),
    *(b"Sunday, 06-Nov-94 08:49:37 GMT\n", b"Sun Nov  6 08:49:37 1994\n5"),
]
HINT_WORDS = [
    b"GMT",
    b"+9999",
    b"-0000",
    b"Sun",
    b"Dec",
    b"nan",
    b"inf",
    b"1e10",
    b"99",
    b"00:60:61",
    b"0x10",
    b"1_0",
    b"(",
    b")",
]

_RESOURCES = ("requests", "tokens")
RATES = [
    b"\n".join(b"x-ratelimit-%s-%s: 50" % (what.encode(), of.encode()) for of in _RESOURCES for what in ("limit", "remaining")),
    b"x-ratelimit-limit-requests: 14400\nx-ratelimit-remaining-requests: 14370\nx-ratelimit-reset-requests: 2m59.56s",
    b"anthropic-ratelimit-requests-limit: 50\nanthropic-ratelimit-requests-reset: 2026-01-02T03:04:05Z\ndate: " + _DATE,
    b'ratelimit: "a";r=5;t=3, "b";r=1\nratelimit-policy: "a";q=10;w=1, "b";q=100;w=60',
    b"ratelimit: limit=100, remaining=50, reset=5\nratelimit-limit: 10, 10;w=1",
    b"x-ratelimit-limit: 5\nx-ratelimit-reset: 1767323045",
    b'\n\n{"error":{"message":"(TPM): Limit 40000, Used 39500","metadata":{"headers":{"X-RateLimit-Limit":"20"}}}}',
]
RATE_WORDS = [
    *(b"x-ratelimit-remaining-requests: ", b"anthropic-ratelimit-tokens-limit: 5\n", b"x-ratelimitbysize-limit-minute: 9\n"),
    *(b"6m0s", b"1.5s", b"120ms", b"-1", b"99999999999999999999", b";w=60", b";q=", b'"', b"=", b",", b"(RPM): Limit 3, Used 3"),
]

RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 429 No\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
    b"HTTP/1.0 500 Internal Server Error\r\nServer: old\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 418 I'm\r\nX-A:  one \t\r\nx-a: \xe4\r\nX-Empty:\r\nConnection: keep-alive, Close\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
]
WIRE_WORDS = [
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"200", b"204", b"101", b"Content-Length: ", b"Content-Length: 5\r\n", b"chunked"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n", b"\r\n\r\n", b"\n\n"),
    *(
        b"0\r\n\r\n",
        b";ext=1",
        b"ffffffffffffffff",
        b"+5",
        b"0x5",
        b" \r\n",
        b"\t",
        b"\r\n folded",
        b"Upgrade: x\r\n",
        b": ",
        b"\x7f",
    ),
    *(
        b"Content-Encoding: gzip\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"00000000005",
        b"5, 5",
        b"Trailer: x\r\n",
        b"\x0b",
        b"\x0c",
    ),
]

CATALOGS = [
    Catalog().list_body(),
    msgspec.json.encode(
        {
            "data": [
                {
                    "id": "m",
                    "pricing": {
                        "prompt": "0.000001",
                        "completion": 2e-6,
                        "input_cache_read": "1e-7",
                        "request": "0",
                        "image": "1",
                    },
                    "pricing_rows": [{"unit": "call", "name": "web_search", "price": "0.01"}],
                    "max_output_tokens": 8192,
                }
            ]
        }
    ),
    msgspec.json.encode(
        {"models": [{"id": "m", "pricing": [{"prompt": "1", "max_context": 9}, {"prompt": "2", "min_context": 9}]}]}
    ),
]
CATALOGS += [b'{"data":[{"id":"m","pricing":' + DEEP + b"}]}"]
CATALOG_WORDS = [
    *(b'"pricing":', b'"prompt":', b'"completion":', b'"id":', b'"data":', b'"models":', b'"request":', b'"min_context":'),
    *(b'"max_context":', b'"max_output_tokens":', b'"pricing_rows":', b'"input_cache_read":', b'"1e-400"', b'"NaN"', b'"sNaN"'),
    *(
        b'"image":',
        b'"audio-second":',
        b'"unit":',
        b'"custom"',
        b'"price":',
        b'"supported_parameters":',
        b'"options":',
        b'"status":',
    ),
    *(b'"Infinity"', b'"1e99999"', b'"-1"', b'"1_0"', b'"\xd9\xa3"', b'"free"', b'"0.0000000000000000000000000000000001"'),
]

GZIPS = [gzip.compress(b""), gzip.compress(b"one line\n" * 9), gzip.compress(b"a") + gzip.compress(b"b") + bytes(9)]
GZIP_WORDS = [b"\x1f\x8b\x08", b"\x1f\x8b\x08\x1f", bytes(8), gzip.compress(b"in between")]

_SPELT_OUT = b"".join(rb"\u00%02x" % byte for byte in b'sk-empiriolabs-test-"a/b')
ECHOES = [
    rb'{"error":{"message":"no such key: sk-empiriolabs-test-\"a\/b"}}',
    rb'["\\sk-empiriolabs-test-\u0022a/b", "' + _SPELT_OUT + rb'", "\\\u0073k-empiriolabs-test-\"a\u002Fb"]',
    rb'{"\\\\' + _SPELT_OUT + rb'":"\\u0073k"}',
]
ECHO_WORDS = [b'sk-empiriolabs-test-"a/b', rb"sk-empiriolabs-test-\"a/b", _SPELT_OUT, rb"\u0073", rb"\/", rb"\\", b"\\", b"k-"]


STREAMS = [
    (
        b"\7"
        b'data: {"id":"","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"M"}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"content":"on","tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\ndata: [DONE]\n\n'
    ),
    (
        b"\7"
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":9}}}\n\n'
        b'event: x\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","input":{}}}\n\n'
        b'event: x\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}\n\n'
        b'event: x\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    ),
    (
        b"\7"
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Moon"}\n\n'
        b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","output":[]}}\n\n'
    ),
    b'\7event: error\r\ndata: {"type":"error","error":{"type":"overloaded_error","message":"No."}}\r\n\r\n',
    b'\7{"error":{"code":"upstream_error"}}',
]
STREAM_WORDS = [
    *(b"data: ", b"event: ", b"\n\n", b"\r", b"[DONE]", b"index", b"delta", b"content", b"choices", b"usage", b"error", b"type"),
    *(b"message_start", b"content_block_delta", b"message_delta", b"response.completed", b"response", b"citations_delta"),
    *(b'"\\ud83d"', b"null", b"[]", b"{}", b"1e999", b"-1", b"message", b"tool_calls", b"partial_json", b"\xff", b"logprobs"),
]
