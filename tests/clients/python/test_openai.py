"""OpenAI's Python client against the built server."""

import asyncio
import time
import unittest

import openai
from served import KEY, MODEL, Served

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me about a dog."}], "max_tokens": 12}
STORY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12}


def until(what):
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it has not happened")


class Openai(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Served("--api-key", KEY))
        cls.client = openai.OpenAI(base_url=cls.server.base, api_key=KEY, max_retries=0)

    def refused(self, kind, call, **expected):
        with self.assertRaises(kind) as caught:
            call()
        for name, value in expected.items():
            self.assertEqual(getattr(caught.exception, name), value, name)
        return caught.exception

    def test_models(self):
        models = self.client.models.list().data
        self.assertEqual([model.id for model in models], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL), models[0])

    def test_chat_plain_and_as_a_stream(self):
        plain = self.client.chat.completions.create(**CHAT)
        choice = plain.choices[0]
        self.assertTrue(choice.message.content and choice.message.role == "assistant")
        self.assertEqual(plain.usage.total_tokens, plain.usage.prompt_tokens + plain.usage.completion_tokens)
        self.assertTrue(plain.id.startswith("chatcmpl-") and plain._request_id)
        stream = self.client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        self.assertEqual(text, choice.message.content)
        self.assertEqual([c.usage for c in chunks if c.usage], [plain.usage])
        self.assertEqual(len({(c.id, c.created, c.model) for c in chunks}), 1)
        ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        self.assertEqual(ends, [plain.choices[0].finish_reason])
        without = list(self.client.chat.completions.create(**CHAT, stream=True))
        self.assertTrue(all(chunk.choices and chunk.usage is None for chunk in without))

    def test_the_streaming_helper_collects_the_same(self):
        plain = self.client.chat.completions.create(**CHAT)
        with self.client.chat.completions.stream(**CHAT) as stream:
            done = [event for event in stream if event.type == "content.done"]
            whole = stream.current_completion_snapshot
        self.assertEqual([event.content for event in done], [plain.choices[0].message.content])
        self.assertEqual(whole.choices[0].message.content, plain.choices[0].message.content)

    def test_completions_choices_and_stops(self):
        several = self.client.completions.create(
            **STORY | {"prompt": ["Once", "Twice"]}, n=2, temperature=0.8, seed=7, echo=True
        )
        begin = [choice.text.split(" ")[0].rstrip(",.") for choice in several.choices]
        self.assertEqual([text.startswith("Once") for text in begin], [True, True, False, False])
        self.assertEqual([choice.index for choice in several.choices], [0, 1, 2, 3])
        again = self.client.completions.create(
            **STORY | {"prompt": ["Once", "Twice"]}, n=2, temperature=0.8, seed=7, echo=True
        )
        self.assertEqual(again.choices, several.choices)
        whole = self.client.completions.create(**STORY).choices[0].text
        stop = whole[4:7]
        cut = self.client.completions.create(**STORY, stop=[stop]).choices[0]
        self.assertEqual((cut.text, cut.finish_reason), (whole[: whole.index(stop)], "stop"))
        gap = self.client.completions.create(**STORY | {"max_tokens": 6}, suffix=" They lived happily.")
        self.assertEqual(gap.usage.completion_tokens, 6)

    def test_logprobs(self):
        chat = self.client.chat.completions.create(**CHAT | {"max_tokens": 5}, logprobs=True, top_logprobs=3)
        content = chat.choices[0].logprobs.content
        self.assertEqual(len(content), chat.usage.completion_tokens)
        self.assertTrue(all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in content))
        story = self.client.completions.create(**STORY | {"max_tokens": 5}, logprobs=2).choices[0].logprobs
        lengths = {len(story.tokens), len(story.token_logprobs), len(story.top_logprobs), len(story.text_offset)}
        self.assertEqual(lengths, {5})

    def test_errors_have_their_types(self):
        chat = self.client.chat.completions.create
        self.refused(openai.BadRequestError, lambda: chat(**CHAT, temperature=3), param="temperature", status_code=400)
        self.refused(openai.NotFoundError, lambda: chat(**CHAT | {"model": "gpt-9"}), code="model_not_found")
        long = self.refused(
            openai.BadRequestError, lambda: chat(**CHAT | {"max_tokens": 9000}), code="context_length_exceeded"
        )
        self.assertIn("512", long.message)
        image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        messages = [{"role": "user", "content": image}]
        self.refused(
            openai.BadRequestError, lambda: chat(**CHAT | {"messages": messages}), param="messages[0].content"
        )
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        self.refused(openai.BadRequestError, lambda: chat(**CHAT, tools=tools), param="tools")
        self.refused(openai.BadRequestError, lambda: chat(**CHAT, extra_body={"remask": {"thresh": 1}}), param="remask")
        wrong = openai.OpenAI(base_url=self.server.base, api_key="wrong")
        self.refused(openai.AuthenticationError, wrong.models.list, code="invalid_api_key", status_code=401)
        self.refused(openai.NotFoundError, lambda: self.client.embeddings.create(model=MODEL, input="a"))

    def test_fields_of_ours_go_through(self):
        ours = {"remask": {"preset": "quality", "mor": {"max_recursions": 2, "skip_threshold": 0.9}}}
        answer = self.client.chat.completions.create(**CHAT, extra_body=ours)
        self.assertGreater(answer.model_extra["remask"]["forward_passes"], 0)
        self.assertIn("easy", answer.model_extra["remask"]["mor"])

    def test_responses_plain_and_as_a_stream(self):
        said = self.client.chat.completions.create(**CHAT).choices[0].message.content
        ask = {"model": MODEL, "input": CHAT["messages"][0]["content"], "max_output_tokens": 12}
        plain = self.client.responses.create(**ask, store=False)
        self.assertEqual((plain.output_text, plain.object), (said, "response"))
        events = list(self.client.responses.create(**ask, stream=True))
        self.assertEqual("".join(e.delta for e in events if e.type == "response.output_text.delta"), said)
        self.assertIn(events[-1].type, ("response.completed", "response.incomplete"))
        self.assertEqual(events[-1].response.output_text, said)
        with self.client.responses.stream(**ask) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        self.assertEqual(text, said)
        self.refused(
            openai.BadRequestError, lambda: self.client.responses.create(**ask, previous_response_id="resp_1")
        )

    def test_who_closes_a_stream_ends_the_request(self):
        before = self.server.metric("remask_requests_total", "aborted")
        slow = {"preset": "quality", "block_length": 300}
        long = CHAT | {"max_tokens": 400, "extra_body": {"remask": slow, "ignore_eos": True}}
        # The first text is there before the end, as a block of three hundred tokens is decided one by one.
        stream = self.client.completions.create(
            model=MODEL, prompt="Once", max_tokens=400, stream=True, extra_body=long["extra_body"]
        )
        next(iter(stream))
        stream.close()
        until(lambda: self.server.metric("remask_requests_total", "aborted") == before + 1)
        until(lambda: self.server.metric("dfastllm_num_requests_running") == 0)
        self.assertEqual(self.server.metric("remask_kv_slots_used"), 0)

    def test_many_at_once_answer_as_each_alone(self):
        prompts = [f"There was a house with {n} doors" for n in range(8)]

        async def ask():
            async with openai.AsyncOpenAI(base_url=self.server.base, api_key=KEY, max_retries=0) as client:
                calls = [client.completions.create(**STORY | {"prompt": prompt}) for prompt in prompts]
                return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

        together = asyncio.run(ask())
        alone = [self.client.completions.create(**STORY | {"prompt": p}).choices[0].text for p in prompts]
        self.assertEqual(together, alone)


class Retries(unittest.TestCase):
    def test_what_may_be_tried_again_is_and_nothing_else(self):
        with Served("--rate-limit-requests", "1", "--rate-limit-window", "1") as server:
            client = openai.OpenAI(base_url=server.base, api_key="none")
            client.completions.create(**STORY | {"max_tokens": 1})
            with self.assertRaises(openai.RateLimitError) as caught:
                client.with_options(max_retries=0).completions.create(**STORY)
            self.assertEqual(caught.exception.code, "rate_limit_exceeded")
            # The client waits for as long as it is told, and asks again.
            client.completions.create(**STORY | {"max_tokens": 1})
        with Served("--request-timeout", "0.001") as server:
            client = openai.OpenAI(base_url=server.base, api_key="none")
            with self.assertRaises(openai.InternalServerError) as caught:
                client.completions.create(**STORY | {"max_tokens": 400})
            self.assertEqual((caught.exception.status_code, caught.exception.code), (504, "deadline_exceeded"))
            self.assertEqual(server.metric("remask_requests_total", "timeout"), 1, "it is final, and was not repeated")


if __name__ == "__main__":
    unittest.main()
