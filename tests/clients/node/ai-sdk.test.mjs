// Vercel's AI SDK against the built server: OpenAI's provider, by responses and by chats, and the one for compatible
// servers.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText } from 'ai';
import { KEY, MODEL, serve, until } from './served.mjs';

const ask = { prompt: 'Tell me about a dog.', maxOutputTokens: 12, maxRetries: 0, temperature: 0 };
let server;
let models;

before(async () => {
    server = await serve('--api-key', KEY);
    const openai = createOpenAI({ baseURL: server.base, apiKey: KEY });
    const compatible = createOpenAICompatible({ name: 'remask', baseURL: server.base, apiKey: KEY, includeUsage: true });
    models = { responses: openai(MODEL), chat: openai.chat(MODEL), completion: openai.completion(MODEL),
        compatible: compatible(MODEL), 'compatible completion': compatible.completionModel(MODEL) };
});
after(() => server.stop());

test('every provider gives the same answer, whole and as a stream', async () => {
    const texts = {};
    for (const [name, model] of Object.entries(models)) {
        const whole = await generateText({ model, ...ask });
        assert.ok(whole.text && whole.usage.inputTokens > 0 && whole.usage.outputTokens > 0, name);
        const stream = streamText({ model, ...ask, onError({ error }) { throw error; } });
        let text = '';
        for await (const piece of stream.textStream) text += piece;
        assert.equal(text, whole.text, name);
        assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens, name);
        assert.equal(await stream.finishReason, whole.finishReason, name);
        texts[name] = text;
    }
    assert.equal(texts.responses, texts.chat);
    assert.equal(texts.compatible, texts.chat);
});

test('settings go through', async () => {
    const { text: whole } = await generateText({ model: models.compatible, ...ask });
    const stop = whole.slice(3, 6);
    const { text, finishReason } = await generateText({ model: models.compatible, ...ask, stopSequences: [stop] });
    assert.deepEqual([text, finishReason], [whole.slice(0, whole.indexOf(stop)), 'stop']);
    const seeded = { model: models.compatible, ...ask, temperature: 0.9, seed: 11 };
    assert.equal((await generateText(seeded)).text, (await generateText(seeded)).text);
    const { text: kind } = await generateText({ model: models.responses, ...ask, instructions: 'Be kind.' });
    assert.ok(kind);
});

test('errors have a status and say whether to try again', async () => {
    for (const name of ['responses', 'chat', 'compatible']) {
        const call = generateText({ model: models[name], ...ask, maxOutputTokens: 9000 });
        await assert.rejects(call, (error) => {
            assert.ok(APICallError.isInstance(error), `${name}: ${error}`);
            assert.ok(error.statusCode === 400 && !error.isRetryable && error.message.includes('512'), `${name}: ${error}`);
            return true;
        });
    }
});

test('who aborts ends the request', async () => {
    const before = await server.metric('remask_requests_total', 'aborted');
    const abort = new AbortController();
    const { textStream } = streamText({ model: models.compatible, ...ask, maxOutputTokens: 400, abortSignal: abort.signal });
    for await (const _ of textStream) { abort.abort(); break; }
    await until(async () => (await server.metric('dfastllm_num_requests_running')) === 0);
    assert.ok((await server.metric('remask_requests_total', 'aborted')) >= before);
});
