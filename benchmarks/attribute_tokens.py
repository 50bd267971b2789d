"""Attribute tokens from stored prompt vectors, compared with encoding the prompts of every batch with the text encoder.

python benchmarks/attribute_tokens.py --text-encoder FOLDER_OR_NAME
python benchmarks/attribute_tokens.py --text-encoder FOLDER_OR_NAME --rows 1000

The paper describes the second method: each epoch encodes one prompt per row and attribute. `AttributeTokenizer` encodes each
distinct prompt once, when it is built. Both methods are timed over an epoch of the same rows. The slow method runs for at most
--seconds, and its time is extrapolated to the epoch. The tokens of both methods are compared.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from alignedfusion import Attribute, AttributeSchema, AttributeTokenizer, TextEncoder

VALUES = ("absent", "mild", "moderate", "severe", "uncertain")


def main() -> None:
    """Measure both methods, print the results and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text-encoder", required=True, metavar="NAME", help="name or folder of a Hugging Face encoder"
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--attributes", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30.0, help="time limit of the slow method (default: 30)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file to write the results to")
    options = parser.parse_args()

    torch.manual_seed(0)
    schema = AttributeSchema([Attribute(f"finding {i}", values=VALUES) for i in range(options.attributes)])
    codes = torch.randint(0, len(VALUES), (options.rows, options.attributes)).to(options.device)
    batches = codes.split(options.batch_size)
    encoder = TextEncoder(
        options.text_encoder, device=options.device, batch_size=options.batch_size * options.attributes
    )
    start = time.perf_counter()
    tokenizer = AttributeTokenizer(schema, 384, text_encoder=encoder).to(options.device).eval()
    building = time.perf_counter() - start

    # The paper's method: encode every prompt of the batch, then centre and scale the vectors as the tokenizer does.
    prompts = [attribute.prompts() for attribute in schema]
    raw = encoder.encode([prompt for of_attribute in prompts for prompt in of_attribute])
    mean, deviation = raw.mean(0), (raw - raw.mean(0)).std()
    done, difference, spent = 0, 0.0, 0.0
    with torch.inference_mode():
        tokenizer(batches[0])
        while done < len(batches) and spent < options.seconds:
            batch = batches[done]
            start = time.perf_counter()
            texts = [prompts[a][code] for row in batch.tolist() for a, code in enumerate(row)]
            inputs = encoder.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(options.device)
            hidden = encoder.model(**inputs).last_hidden_state[:, 0].float()
            vectors = (hidden - mean.to(options.device)) / deviation
            tokens = tokenizer.project(vectors).view(*batch.shape, -1) + tokenizer.identity
            spent += time.perf_counter() - start
            torch.testing.assert_close(tokens, tokenizer(batch), atol=1e-4, rtol=1e-3)
            difference = max(difference, float((tokens - tokenizer(batch)).abs().max()))
            done += 1
        slow = spent / done * len(batches)

        start = time.perf_counter()
        for batch in batches:
            last = tokenizer(batch)
        float(last.sum())
        fast = time.perf_counter() - start

    scale = float(last.abs().mean())
    print(f"{options.rows} rows x {options.attributes} attributes, batches of {options.batch_size}, {options.device}")
    print(f"prompts of every batch encoded: {slow:.1f} s per epoch (measured on {done} of {len(batches)} batches)")
    print(f"stored prompt vectors:          {fast:.3f} s per epoch, and {building:.2f} s once")
    print(
        f"ratio {slow / fast:.0f}; largest difference {difference:.1e}, mean absolute value of the tokens {scale:.2f}"
    )
    if options.output:
        figures = {"slow": slow, "fast": fast, "once": building, "ratio": slow / fast, "difference": difference}
        options.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
