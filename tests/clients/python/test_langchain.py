"""LangChain's OpenAI classes against the built server."""

import asyncio
import unittest

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from served import KEY, MODEL, Served

ASK = "Tell me about a dog."


class Langchain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Served("--api-key", KEY))
        cls.common = {"model": MODEL, "base_url": cls.server.base, "api_key": KEY, "max_retries": 0}
        cls.chat = ChatOpenAI(**cls.common, max_tokens=12, temperature=0)

    def test_whole_streamed_and_asynchronous_answers_are_the_same(self):
        whole = self.chat.invoke(ASK)
        self.assertTrue(whole.content)
        self.assertEqual(whole.usage_metadata["output_tokens"], whole.response_metadata["token_usage"]["completion_tokens"])
        self.assertEqual("".join(chunk.content for chunk in self.chat.stream(ASK)), whole.content)
        self.assertEqual(asyncio.run(self.chat.ainvoke(ASK)).content, whole.content)
        told = ChatOpenAI(**self.common, max_tokens=12, temperature=0, stream_usage=True)
        chunks = list(told.stream([SystemMessage("Be kind."), HumanMessage(ASK)]))
        usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        self.assertEqual(len(usage), 1)

    def test_batches_logprobs_and_stops(self):
        both = self.chat.batch([ASK, "A story about a cat."])
        self.assertEqual(both[0].content, self.chat.invoke(ASK).content)
        logs = self.chat.bind(logprobs=True, top_logprobs=2).invoke(ASK).response_metadata["logprobs"]["content"]
        self.assertEqual(len(logs[0]["top_logprobs"]), 2)
        stop = both[0].content[3:6]
        cut = self.chat.invoke(ASK, stop=[stop])
        self.assertEqual(cut.content, both[0].content[: both[0].content.index(stop)])
        self.assertEqual(cut.response_metadata["finish_reason"], "stop")

    def test_completions(self):
        story = OpenAI(**self.common, max_tokens=12, temperature=0)
        whole = story.invoke("Once upon a time")
        self.assertTrue(whole)
        self.assertEqual("".join(story.stream("Once upon a time")), whole)

    def test_responses(self):
        said = self.chat.invoke(ASK).content
        responses = ChatOpenAI(**self.common, max_tokens=12, temperature=0, use_responses_api=True)
        self.assertEqual(responses.invoke(ASK).text, said)
        self.assertEqual("".join(chunk.text for chunk in responses.stream(ASK)), said)

    def test_tools_are_refused_in_words(self):
        def add(a: int, b: int) -> int:
            """Adds."""
            return a + b

        with self.assertRaisesRegex(Exception, "calls no tools"):
            self.chat.bind_tools([add]).invoke(ASK)


if __name__ == "__main__":
    unittest.main()
