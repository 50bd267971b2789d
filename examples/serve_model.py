"""Serve a saved model over HTTP: from an image and attributes to probabilities of classes and unmentioned attributes.

Needs nothing but alignedfusion itself; half a minute on two cores to train a model if none is given.

python serve_model.py --try                  # train on drawn lesions, serve, send one request, stop
python serve_model.py --model runs/first     # a folder of `alignedfusion train` or save_pretrained; until Ctrl-C
curl -d @request.json http://127.0.0.1:8000  # {"image": base64 of an image file, "attributes": {"age": 54}}

The server listens on this machine only and has no authentication. To serve other users, put a server with authentication in
front of it.
"""

import argparse
import base64
import io
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from PIL import Image

from alignedfusion import AlignedFusionClassifier
from alignedfusion.datasets import phantom
from alignedfusion.datasets.images import read_image
from alignedfusion.deployment.prediction import name_output
from alignedfusion.presets import Backbone, standard

HOST = "127.0.0.1"
LARGEST_REQUEST, LARGEST_IMAGE = 50_000_000, 50_000_000  # bytes, pixels
SECONDS = 30.0  # limit for sending a request
TRAINING_CASES, EPOCHS, BATCH_SIZE, LEARNING_RATE, IMAGE_SIZE = 1000, 8, 64, 1e-3, 64


class Predictor:
    """A loaded model that predicts one case at a time."""

    def __init__(self, model: AlignedFusionClassifier) -> None:
        if len(model.image_modalities) != 1:
            raise ValueError(f"this server needs a model with one image, this one has {list(model.image_modalities)}")
        self.model = model.eval()
        self.transform = model.visual.transform()

    @torch.inference_mode()
    def predict(self, request: dict) -> dict:
        """Predict from `{"image": base64 of a file, "attributes": {name: value}}`; ValueError for an invalid request."""
        if not isinstance(request, dict) or set(request) - {"image", "attributes"} or "image" not in request:
            raise ValueError('send {"image": base64 of an image file, "attributes": {"age": 54}}')
        try:
            file = io.BytesIO(base64.b64decode(request["image"], validate=True))
            with Image.open(file) as header:  # reads the size alone
                pixels = header.width * header.height
        except Image.DecompressionBombError as error:
            raise ValueError(f"the image has too many pixels; {LARGEST_IMAGE:,} is the most") from error
        except (TypeError, ValueError, OSError) as error:
            raise ValueError("the image is not base64 of a PNG, JPEG or TIFF file") from error
        if pixels > LARGEST_IMAGE:
            raise ValueError(f"the image has {pixels:,} pixels; {LARGEST_IMAGE:,} is the most")
        picture = read_image(file)
        if not isinstance(request.get("attributes", {}), dict):
            raise ValueError('attributes must be an object of names and values, such as {"age": 54}')
        codes = self.model.schema.encode(
            [request.get("attributes", {})]
        )  # raises ValueError for an unknown name or value
        out = self.model(self.transform(picture)[None], codes)
        return name_output(self.model, codes, out)


def make_server(predictor: Predictor, port: int) -> ThreadingHTTPServer:
    """A server that is not running yet; port 0 selects a free port."""

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS  # otherwise a client that sends nothing would occupy a thread forever

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if not (size.isascii() and size.isdigit()):
                self.answer(411, {"error": "send the length of the request as Content-Length, in digits"})
            elif len(size) > 12 or int(size) > LARGEST_REQUEST:
                self.answer(413, {"error": f"a request has {LARGEST_REQUEST} bytes at most"})
            else:
                try:
                    body = self.rfile.read(int(size))
                    self.answer(200, predictor.predict(json.loads(body)))
                except TimeoutError:
                    self.answer(408, {"error": f"the request did not arrive within {SECONDS:.0f} seconds"})
                except RecursionError:
                    self.answer(400, {"error": "the JSON is nested too deeply"})
                except (ValueError, OverflowError) as error:  # includes errors of json
                    self.answer(400, {"error": str(error)})

        def answer(self, status: int, content: dict) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Log nothing: requests hold patient data."""

    return ThreadingHTTPServer((HOST, port), Handler)


def ask(url: str, image: bytes, attributes: dict) -> dict:
    """Send one request."""
    request = {"image": base64.b64encode(image).decode(), "attributes": attributes}
    with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=60) as reply:
        return json.load(reply)


def train(cases: int) -> AlignedFusionClassifier:
    """A small model, trained on drawn lesions."""
    torch.manual_seed(0)
    model = standard(
        phantom.SCHEMA,
        phantom.CLASS_NAMES,
        backbone=Backbone("test_vit", pretrained=False, tune="whole", image_size=IMAGE_SIZE),
    )
    scale = {name: model.visual.preprocessing[name] for name in ("mean", "std")}
    data = phantom.make(cases, image_size=IMAGE_SIZE, missing=0.2).cases(**scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(cases).split(BATCH_SIZE):
            loss = model(data.image[rows], data.codes[rows], labels=data.labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / cases:.2f}")
    return model


def main() -> None:
    """Load or train a model, and serve it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FOLDER", help="a saved model (default: train a small one)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 selects a free port")
    parser.add_argument("--try", action="store_true", dest="once", help="send one request, print the answer, stop")
    parser.add_argument("--cases", type=int, default=TRAINING_CASES, help=f"training cases (default: {TRAINING_CASES})")
    options = parser.parse_args()
    model = AlignedFusionClassifier.from_pretrained(options.model) if options.model else train(options.cases)

    with make_server(Predictor(model), 0 if options.once else options.port) as server:
        url = f"http://{HOST}:{server.server_port}"
        print(f"serving on {url}; Ctrl-C stops", flush=True)
        if not options.once:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("\nstopped")
            return
        threading.Thread(target=server.serve_forever, daemon=True).start()
        drawn, file = phantom.make(1, seed=1, image_size=IMAGE_SIZE), io.BytesIO()
        Image.fromarray(drawn.images[0]).save(file, "PNG")
        attributes = {"growth": drawn.rows[0]["growth"]} if model.schema == phantom.SCHEMA else {}
        print(json.dumps(ask(url, file.getvalue(), attributes), indent=2))
        server.shutdown()


if __name__ == "__main__":
    main()
