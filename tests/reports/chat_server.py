"""Chat servers on this machine: one that says what a test wants, and llama.cpp's own with a tiny random model."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Exchange:
    """One request as the server saw it."""

    def __init__(self, headers, body):
        self.headers, self.body = headers, body

    @property
    def system(self):
        return self.body["messages"][0]["content"]

    @property
    def user(self):
        return self.body["messages"][1]["content"]

    @property
    def schema(self):
        return self.body["response_format"]["json_schema"]["schema"]


@contextlib.contextmanager
def chat_server(answer):
    """Yield `base_url, exchanges`; `answer(exchange)` gives the reply's content, or (status, body, headers)."""
    exchanges = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            text = self.rfile.read(int(self.headers["content-length"]))
            exchanges.append(Exchange(dict(self.headers), json.loads(text)))
            reply = answer(exchanges[-1])
            status, body, headers = (200, completion(reply), {}) if isinstance(reply, str) else reply
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):  # a client that was killed
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", exchanges
        finally:
            server.shutdown()
            thread.join()


def completion(content, finish_reason="stop"):
    """The body of a reply."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}


def llama_server(path, *, slots=8, context=4096):
    """llama.cpp's server with a random model; it runs until the object is gone. The key is "right"."""
    import xllamacpp

    write_random_llama(path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = slots * context, slots
    params.cpuparams.n_threads = 1
    params.warmup, params.ui, params.verbosity = False, False, -1
    params.api_keys = ["right"]
    return xllamacpp.Server(params)


def write_random_llama(path, *, width=16, hidden=32, layers=1):
    """A Llama with one token per printable ASCII character and random weights: its answers are noise."""
    import gguf
    import numpy as np

    special = [b"<unk>", b"<s>", b"</s>"]
    pieces = special + ["\u2581".encode() if code == 32 else bytes([code]) for code in (9, 10, *range(32, 127))]
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types([2, 3, 3] + [1] * (len(pieces) - 3))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: ")

    shapes = {"token_embd": (len(pieces), width), "output": (len(pieces), width)}
    norms = ["output_norm"]
    for block in (f"blk.{number}." for number in range(layers)):
        shapes |= {f"{block}attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}ffn_{part}": (hidden, width) for part in ("gate", "up")}
        shapes[f"{block}ffn_down"] = (width, hidden)
        norms += [f"{block}attn_norm", f"{block}ffn_norm"]
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, shape).astype(np.float32))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
