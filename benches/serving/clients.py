"""Drives `soft serve` with OpenAI's Python client: chat, completions, streams, log-probabilities, errors.

    pip install openai
    soft serve --model MODEL               # another terminal
    python benches/serving/clients.py --url http://127.0.0.1:8000/v1 [--key KEY]

Needs a model with several exits.
"""

import argparse

import openai

PROMPT = "The capital of France is"


def check_models(client):
    names = [model.id for model in client.models.list()]
    assert f"{names[0]}@auto" in names, names
    assert client.models.retrieve(names[1]).id == names[1]
    return names


def check_completions(client, names):
    for name in names:
        answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0)
        assert answer.usage.completion_tokens == len(answer.choices[0].exits), answer
        streamed = client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0, stream=True)
        text = "".join(chunk.choices[0].text for chunk in streamed)
        assert text == answer.choices[0].text, (name, text, answer)
    exact = {client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0).choices[0].text
             for name in [names[0], f"{names[0]}@auto", f"{names[0]}@speculative"]}
    assert len(exact) == 1, exact
    several = client.completions.create(model=names[0], prompt=[PROMPT, "One, two,"], max_tokens=4, n=2, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def check_chat(client, names):
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Name two colors."}]
    settings = {"model": names[0], "messages": messages, "max_tokens": 12, "temperature": 0}
    answer = client.chat.completions.create(**settings, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.top_logprobs[0].logprob >= token.logprob - 1e-6 for token in tokens)
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    streamed = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    chunks = list(streamed)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content, (text, answer)
    assert chunks[-1].usage == answer.usage
    # As programs do: the answer goes back as it came.
    again = client.chat.completions.create(**{**settings, "messages": [*messages, answer.choices[0].message, messages[1]]})
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens
    dynamic = client.chat.completions.create(**settings, extra_body={"mode": "dynamic:confidence=0.5"})
    assert len(dynamic.choices[0].exits) == dynamic.usage.completion_tokens
    fast = client.chat.completions.create(**settings, extra_body={"max_ms_per_token": 1e6})
    assert fast.choices[0].message.content == answer.choices[0].message.content


def check_logprobs(client, names):
    for name in names[:3]:
        answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=1, echo=True, logprobs=2, temperature=0)
        logprobs = answer.choices[0].logprobs
        assert logprobs.token_logprobs[0] is None and all(value < 0 for value in logprobs.token_logprobs[1:])
        assert "".join(logprobs.tokens) == answer.choices[0].text


def refused(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"expected {error}")


def check_errors(client, names):
    ask = lambda **fields: client.completions.create(**{"model": names[0], "prompt": PROMPT, "max_tokens": 2, **fields})
    refused(openai.NotFoundError, lambda: ask(model="gpt-4"))
    refused(openai.BadRequestError, lambda: ask(n=1000))
    refused(openai.BadRequestError, lambda: ask(max_tokens=10**9))
    refused(openai.BadRequestError, lambda: ask(extra_body={"mode": "none"}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key, max_retries=0, timeout=120)
    names = check_models(client)
    for check in [check_completions, check_chat, check_logprobs, check_errors]:
        check(client, names)
        print(f"{check.__name__}: passed")


if __name__ == "__main__":
    main()
