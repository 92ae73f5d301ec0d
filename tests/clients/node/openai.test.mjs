// OpenAI's Node client against the built server.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI from 'openai';
import { KEY, MODEL, serve, until } from './served.mjs';

const chat = { model: MODEL, messages: [{ role: 'user', content: 'Tell me about a dog.' }], max_tokens: 12 };
let server;
let client;

before(async () => {
    server = await serve('--api-key', KEY);
    client = new OpenAI({ baseURL: server.base, apiKey: KEY, maxRetries: 0 });
});
after(() => server.stop());

test('models are listed and found', async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.deepEqual(ids, [MODEL]);
    assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
});

test('a chat says the same whole and as a stream', async () => {
    const { data: plain, request_id } = await client.chat.completions.create(chat).withResponse();
    assert.ok(plain.choices[0].message.content && request_id);
    const stream = await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } });
    let text = '';
    let usage;
    for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? '';
        usage = chunk.usage ?? usage;
    }
    assert.equal(text, plain.choices[0].message.content);
    assert.deepEqual(usage, plain.usage);
    const collected = await client.chat.completions.stream(chat).finalChatCompletion();
    assert.equal(collected.choices[0].message.content, text);
});

test('choices, stops and log-probabilities', async () => {
    const story = { model: MODEL, prompt: 'Once upon a time', max_tokens: 12 };
    const several = await client.completions.create({ ...story, n: 3, temperature: 0.9, seed: 5 });
    assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1, 2]);
    const again = await client.completions.create({ ...story, n: 3, temperature: 0.9, seed: 5 });
    assert.deepEqual(again.choices, several.choices);
    const whole = (await client.completions.create(story)).choices[0].text;
    const cut = (await client.completions.create({ ...story, stop: whole.slice(4, 7) })).choices[0];
    assert.equal(cut.text, whole.slice(0, whole.indexOf(whole.slice(4, 7))));
    const logged = await client.chat.completions.create({ ...chat, max_tokens: 5, logprobs: true, top_logprobs: 20 });
    const { content } = logged.choices[0].logprobs;
    assert.ok(content.length === 5 && content.every((token) => token.top_logprobs.length === 20));
});

test('errors have their types', async () => {
    const create = (more) => client.chat.completions.create({ ...chat, ...more });
    await assert.rejects(create({ temperature: 3 }), { constructor: OpenAI.BadRequestError, param: 'temperature' });
    await assert.rejects(create({ model: 'gpt-9' }), { constructor: OpenAI.NotFoundError, code: 'model_not_found' });
    await assert.rejects(create({ max_tokens: 9000, stream: true }), { code: 'context_length_exceeded', status: 400 });
    const wrong = new OpenAI({ baseURL: server.base, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(wrong.models.list(), { constructor: OpenAI.AuthenticationError, code: 'invalid_api_key' });
});

test('responses say what the chat says', async () => {
    const said = (await client.chat.completions.create(chat)).choices[0].message.content;
    const ask = { model: MODEL, input: chat.messages[0].content, max_output_tokens: 12 };
    assert.equal((await client.responses.create(ask)).output_text, said);
    let text = '';
    for await (const event of await client.responses.create({ ...ask, stream: true })) {
        if (event.type === 'response.output_text.delta') text += event.delta;
    }
    assert.equal(text, said);
    assert.equal((await client.responses.stream(ask).finalResponse()).output_text, said);
});

test('who leaves a stream ends the request', async () => {
    const before = await server.metric('remask_requests_total', 'aborted');
    const stream = await client.completions.create({
        model: MODEL, prompt: 'Once', max_tokens: 400, stream: true, ignore_eos: true, remask: { preset: 'quality' },
    });
    for await (const _ of stream) break;
    await until(async () => (await server.metric('remask_requests_total', 'aborted')) === before + 1);
    await until(async () => (await server.metric('dfastllm_num_requests_running')) === 0);
    assert.equal(await server.metric('remask_kv_slots_used'), 0);
});

test('what may be tried again is, and nothing else', async () => {
    const limited = await serve('--rate-limit-requests', '1', '--rate-limit-window', '1');
    const patient = new OpenAI({ baseURL: limited.base, apiKey: 'none' });
    await patient.chat.completions.create({ ...chat, max_tokens: 1 });
    await assert.rejects(patient.chat.completions.create(chat, { maxRetries: 0 }), { constructor: OpenAI.RateLimitError });
    await patient.chat.completions.create({ ...chat, max_tokens: 1 });
    await limited.stop();
    const hasty = await serve('--request-timeout', '0.001');
    const asks = new OpenAI({ baseURL: hasty.base, apiKey: 'none' });
    await assert.rejects(asks.chat.completions.create({ ...chat, max_tokens: 400 }), { status: 504, code: 'deadline_exceeded' });
    assert.equal(await hasty.metric('remask_requests_total', 'timeout'), 1);
    await hasty.stop();
});
