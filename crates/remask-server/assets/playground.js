// The playground: chat and infilling over this server's API, with the canvas as steps fill it. Whatever comes from
// the model or the server is set as text, never as markup.

import { Canvas } from './canvas.js';
import { drawFigures } from './figures.js';
import { Refused, base, call, cancel, events, freshId, key, series } from './server.js';

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with classes, and text or children. */
function make(tag, classes = '', ...inside) {
  const element = document.createElement(tag);
  element.className = classes;
  element.append(...inside);
  return element;
}

function button(text, classes, action) {
  const made = make('button', classes, text);
  made.type = 'button';
  made.addEventListener('click', action);
  return made;
}

const number = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const seconds = (time) => (time < 1 ? `${Math.round(time * 1000)} ms` : `${number.format(time)} s`);
const pause = (time) => new Promise((done) => { setTimeout(done, time); });
const forms = { chat: $('#ask'), infill: $('#fill') };
const settings = $('#settings').elements;

// ---- What is asked for ------------------------------------------------------------------------------------------

/** Kinds of the models, by their own names: "diffusion-llm" and "autoregressive-llm". */
const kinds = new Map();
/** Models' own names, by the names that requests say. */
const roots = new Map();

const isCausal = () => kinds.get(roots.get($('#model').value)) === 'autoregressive-llm';
const mode = () => $('input[name=mode]:checked').value;

/** The fields that the settings ask for, `others` among them; what is left empty is left out. */
function wanted(...others) {
  const body = { model: $('#model').value, stream: true, stream_options: { include_usage: true } };
  const read = (into, ...names) => {
    for (const name of names) {
      const field = settings[name];
      if (field.validity.badInput || !field.checkValidity()) throw new Refused({ message: `${name}: ${field.validationMessage}`, param: name });
      if (field.value.trim()) into[name] = field.type === 'number' ? Number(field.value) : field.value.trim();
    }
  };
  read(body, 'temperature', 'seed', ...others);
  const remask = { step_events: true };
  if (!isCausal()) {
    read(remask, 'preset', 'steps', 'block_length', 'accept', 'cache', 'revise');
    if (settings.max_recursions.value) {
      const mor = {};
      read(mor, 'max_recursions');
      remask.mor = settings.mor.value === 'off' ? false : mor;
    } else if (settings.mor.value) {
      remask.mor = settings.mor.value === 'on';
    }
  }
  let more = {};
  try {
    more = settings.more.value.trim() ? JSON.parse(settings.more.value) : {};
  } catch (problem) {
    throw new Refused({ message: `More fields: ${problem.message}` });
  }
  return { ...body, ...more, remask: { ...remask, ...more.remask } };
}

/** A request as a command line. The key is named, not shown. */
function curl(path, body) {
  const { step_events: _, ...remask } = body.remask ?? {};
  const { stream: _s, stream_options: _o, remask: _r, ...plain } = body;
  const shown = Object.keys(remask).length ? { ...plain, remask } : plain;
  const bearer = key.get() ? ` -H "Authorization: Bearer $REMASK_API_KEY"` : '';
  const text = JSON.stringify(shown).replaceAll("'", `'\\''`);
  return `curl ${new URL(path, base)}${bearer} -H 'Content-Type: application/json' -d '${text}'`;
}

// ---- An answer --------------------------------------------------------------------------------------------------

/** The request under way, of which there is one at a time. */
let running = null;

/** An answer on the page. */
class Answer {
  constructor(list, canvas, { before = '', after = '' } = {}) {
    this.canvas = canvas;
    this.frame = [before, after];
    this.received = '';
    this.plain = make('p', 'plain');
    this.plain.hidden = true;
    this.foot = make('footer', 'foot');
    // What is given stands around the canvas as part of the same text.
    const around = (text) => (text ? [make('span', 'given', text)] : []);
    this.flow = make('div', 'text', ...around(before), canvas.root, ...around(after));
    this.root = make('li', 'turn model busy', this.flow, this.plain, this.foot);
    list.append(this.root);
    this.root.scrollIntoView({ block: 'nearest' });
  }

  /** The whole text, with what was given around it. */
  get text() {
    return this.frame[0] + this.received + this.frame[1];
  }

  /** Asks, and shows what comes until it is over. Rejects where it cannot be answered. */
  async run(path, body, cutAtEnd = true) {
    const [id, began] = [freshId(), performance.now()];
    running = { id, controller: new AbortController() };
    const state = (word) => { this.root.dataset.state = word; };
    let [finish, usage, cost] = [null, null, null];
    state('asked');
    this.root.setAttribute('aria-busy', 'true');
    busy(true);
    try {
      const response = await call(path, { method: 'POST', body, id, signal: running.controller.signal });
      for await (const chunk of events(response)) {
        if (chunk.remask?.event === 'step') {
          // Whoever scrolled away to read is left there.
          const follows = this.root.getBoundingClientRect().bottom <= innerHeight;
          this.canvas.add(chunk.remask);
          state('running');
          if (follows) this.root.scrollIntoView({ block: 'nearest' });
          if (settings.slow.checked) await pause(160);
        } else if (chunk.remask) {
          cost = chunk.remask;
        }
        usage = chunk.usage ?? usage;
        for (const choice of chunk.choices) {
          if (choice.index !== 0) continue;
          this.received += choice.text ?? choice.delta?.content ?? '';
          finish = choice.finish_reason ?? finish;
        }
      }
      state('done');
    } catch (problem) {
      if (!running.stopped) {
        state('failed');
        throw problem;
      }
      state('stopped');
      finish = 'stopped';
    } finally {
      running = null;
      busy(false);
      this.root.classList.remove('busy');
      this.root.removeAttribute('aria-busy');
    }
    this.canvas.end(finish === 'stopped' || !cutAtEnd ? undefined : usage?.completion_tokens);
    this.finish(finish, usage, cost, performance.now() - began, curl(path, body));
    return this.text;
  }

  finish(finish, usage, cost, time, command) {
    const words = [];
    if (usage) words.push(`${usage.completion_tokens} tokens`);
    if (cost) {
      words.push(`${cost.forward_passes} passes`, `${number.format(cost.tokens_per_pass)} a pass`);
      words.push(`${number.format(100 - cost.compute_saved_percent)} % of full compute`);
    }
    words.push(seconds(time / 1000), { stop: 'ended by itself', length: 'all positions filled', stopped: 'stopped' }[finish] ?? finish);
    this.plain.textContent = this.text;
    const show = (plain) => {
      [this.plain.hidden, this.flow.hidden] = [!plain, plain];
      toggle.textContent = plain ? 'Canvas' : 'Text';
      replay.hidden = plain || this.canvas.steps.length < 2;
    };
    const toggle = button('Text', 'quiet small', () => show(this.plain.hidden));
    const copy = button('Copy', 'quiet small', () => clip(copy, this.text));
    const shell = button('curl', 'quiet small', () => clip(shell, command));
    shell.title = 'Copy the request as a command line';
    const replay = this.replay();
    this.foot.append(replay, make('p', 'note', words.filter(Boolean).join(' · ')), make('div', 'tools', toggle, copy, shell));
    for (const note of cost?.notes ?? []) this.foot.append(make('p', 'note', note));
    // Characters of several tokens, and texts that a stop string cut, are right as text only.
    show(this.canvas.steps.length === 0 || (finish !== 'stopped' && this.canvas.text() !== this.received));
    $('#said').textContent = this.text;
  }

  /** A slider over the passes, and a button that plays them. */
  replay() {
    const last = this.canvas.steps.length;
    const slider = Object.assign(make('input'), { type: 'range', min: 0, max: last, value: last });
    slider.setAttribute('aria-label', 'Pass');
    const label = make('output');
    const show = (count) => {
      this.canvas.show(count);
      slider.value = count;
      label.textContent = `${count} / ${last}`;
    };
    let timer = 0;
    const halt = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = '▶';
      play.setAttribute('aria-label', 'Play the passes again');
    };
    const play = button('▶', 'quiet small play', () => {
      if (timer) return halt();
      if (Number(slider.value) >= last) show(0);
      play.textContent = '❚❚';
      play.setAttribute('aria-label', 'Pause');
      // A whole replay takes about five seconds.
      timer = setInterval(() => {
        show(Number(slider.value) + 1);
        if (Number(slider.value) >= last || !this.root.isConnected) halt();
      }, Math.min(500, Math.max(50, 5000 / last)));
    });
    halt();
    slider.addEventListener('input', () => { halt(); show(Number(slider.value)); });
    label.textContent = `${last} / ${last}`;
    return make('div', 'replay', play, slider, label);
  }
}

async function clip(from, text) {
  const before = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = 'Copied';
  } catch {
    // Without a secure connection there is no clipboard; then it can be chosen by hand.
    from.closest('footer').append(make('p', 'command', text));
    from.textContent = 'Below';
  }
  setTimeout(() => { from.textContent = before; }, 1500);
}

/** Shows a problem in the server's words, with the field that it names. */
function refuse(list, problem) {
  const detail = [problem.status || null, problem.code, problem.param && `field ${problem.param}`].filter(Boolean).join(' · ');
  const shown = make('li', 'turn problem', make('p', '', problem.message));
  if (detail) shown.append(make('p', 'note', detail));
  shown.setAttribute('role', 'alert');
  list.append(shown);
  shown.scrollIntoView({ block: 'nearest' });
  if (problem.status === 401) {
    $('#key-card').open = true;
    $('#key').focus();
  }
}

function busy(on) {
  for (const form of Object.values(forms)) {
    [$('.run', form).hidden, $('.stop', form).hidden] = [on, !on];
  }
  document.body.classList.toggle('generating', on);
}

/** Ends the request under way: at the server by its name, and here by letting go of the connection. */
async function stop() {
  if (!running || running.stopped) return;
  running.stopped = true;
  const { id, controller } = running;
  await Promise.race([cancel(id), pause(1000)]);
  controller.abort();
}

// ---- Chat -------------------------------------------------------------------------------------------------------

const prompt = $('#prompt');
const talk = $('#talk');
let history = [];

async function ask(event) {
  event?.preventDefault();
  const [said, now] = [prompt.value, history];
  if (running || !said.trim()) return;
  $$('.problem', talk).forEach((old) => old.remove());
  let answer;
  const mine = make('li', 'turn you', make('p', '', said));
  try {
    const body = wanted('max_tokens');
    const system = settings.system.value.trim() ? [{ role: 'system', content: settings.system.value }] : [];
    const question = { role: 'user', content: said };
    body.messages = [...system, ...now, question];
    prompt.value = '';
    fit();
    $('#welcome').hidden = true;
    $('#fresh').hidden = false;
    talk.append(mine);
    answer = new Answer(talk, new Canvas(isCausal() ? 0 : Math.min(body.max_tokens ?? 0, 2048)));
    const text = await answer.run('v1/chat/completions', body);
    // A new chat has a history of its own by now; one that was stopped before its first word says nothing.
    if (text) now.push(question, { role: 'assistant', content: text });
  } catch (problem) {
    answer?.root.remove();
    mine.remove();
    prompt.value = said;
    fit();
    refuse(talk, problem);
  }
}

function anew() {
  stop();
  history = [];
  talk.replaceChildren();
  $('#welcome').hidden = false;
  $('#fresh').hidden = true;
  prompt.focus();
}

const fit = () => {
  prompt.rows = Math.min(8, Math.max(2, prompt.value.split('\n').length));
};

for (const idea of ['Tell me about a dog.', 'Write a story about a lost kite.', 'A brave mouse meets a cat. What happens?']) {
  $('#ideas').append(make('li', '', button(idea, 'idea', () => {
    prompt.value = idea;
    ask();
  })));
}

// ---- Infill -----------------------------------------------------------------------------------------------------

const parts = $('#parts');

/** Adds a text, and the gap before it. */
function part(text, holes) {
  if (holes) {
    const count = Object.assign(make('input'), { type: 'number', min: 1, max: 4096, value: holes, required: true });
    const gap = make('label', 'gap', 'Gap of ', count, ' tokens');
    parts.append(gap);
    if (parts.childElementCount > 3) {
      const away = button('×', 'quiet small', () => { gap.nextElementSibling.remove(); gap.remove(); });
      away.setAttribute('aria-label', 'Remove this gap and the text behind it');
      gap.append(away);
    }
  }
  const area = Object.assign(make('textarea'), { rows: 2, value: text });
  area.setAttribute('aria-label', holes ? 'Text behind the gap' : 'Text before the gap');
  area.placeholder = holes ? 'Text behind the gap; may be empty' : 'Text before the gap';
  parts.append(area);
}

/** Texts and gaps as the form has them. */
const filling = () => [...parts.children].map((element) => {
  if (element.tagName === 'TEXTAREA') return { text: element.value };
  return { holes: Number($('input', element).value) };
}).filter((one) => one.text !== '');

async function fill(event) {
  event.preventDefault();
  if (running) return;
  const list = $('#filled');
  let answer;
  try {
    const [body, canvas] = [wanted(), filling()];
    const [before, gap, after] = canvas;
    if (canvas.length <= 3 && before?.text !== undefined && gap?.holes) {
      // One gap behind a text: every model can do without the rest, diffusion models fill it.
      Object.assign(body, { prompt: before.text, suffix: after?.text, max_tokens: gap.holes });
      answer = new Answer(list, new Canvas(isCausal() ? 0 : gap.holes), { before: before.text, after: after?.text });
      await answer.run('v1/completions', body);
    } else {
      const [given, positions] = await layout(canvas, body.model);
      Object.assign(body, { prompt: null });
      body.remask.canvas = canvas;
      answer = new Answer(list, new Canvas(positions, given));
      await answer.run('v1/completions', body, false);
    }
  } catch (problem) {
    answer?.root.remove();
    refuse(list, problem);
  }
}

/** Where the texts of a canvas stand: their positions are those of their tokens. */
async function layout(canvas, model) {
  const given = new Map();
  let pos = 0;
  for (const { text, holes } of canvas) {
    if (text === undefined) {
      pos += holes;
      continue;
    }
    const response = await call('tokenize', { method: 'POST', body: { model, prompt: text, add_special_tokens: false } });
    const { count } = await response.json();
    for (let offset = 0; offset < count; offset += 1) given.set(pos + offset, offset === 0 ? text : '');
    pos += count;
  }
  return [given, pos];
}

// ---- Models and figures -----------------------------------------------------------------------------------------

function say(state, words) {
  $('#state').dataset.state = state;
  if ($('#state').textContent !== words) $('#state').textContent = words;
}

/** Reads which models there are. */
async function models() {
  const select = $('#model');
  try {
    const { data } = await (await call('v1/models')).json();
    const chosen = select.value;
    select.replaceChildren(...data.map(({ id, root }) => {
      roots.set(id, root);
      return new Option(id, id, false, id === chosen);
    }));
    say('ready', 'ready');
    if (hidden) await kindOfFirst();
  } catch (problem) {
    if (problem.status === 401) {
      say('closed', 'needs a key');
      $('#key-card').open = true;
    } else if (problem.status === 503) {
      const health = await call('health').then((answer) => answer.json(), (refused) => refused.said ?? {});
      const { loaded_bytes: loaded, total_bytes: total } = health.loading ?? {};
      say('loading', total ? `loading, ${Math.floor((100 * loaded) / total)} %` : (health.state ?? 'loading'));
    } else {
      say('failed', 'not reachable');
    }
  }
  fitted();
}

/** Shows the settings that the model has. */
function fitted() {
  $$('.diffusion').forEach((part) => { part.hidden = isCausal(); });
  $$('.chat-only').forEach((part) => { part.hidden = mode() !== 'chat'; });
}

/** The metrics are not for this page. */
let hidden = false;

/** Without metrics the kind of one model can be had. */
async function kindOfFirst() {
  const { model_type: kind } = await call('version').then((answer) => answer.json(), () => ({}));
  kinds.set(roots.values().next().value, kind);
  fitted();
}

async function figures() {
  if (document.visibilityState !== 'visible') return;
  // What is loading, or went away, may be there again.
  if (!['ready', 'closed'].includes($('#state').dataset.state)) await models();
  if (hidden) return;
  let all;
  try {
    all = series(await (await call('metrics')).text());
    $('#figures-note').hidden = true;
  } catch (problem) {
    const elsewhere = { 401: 'The metrics of this server need a key of their own.', 404: 'The metrics of this server are elsewhere.' };
    $('#figures-note').textContent = elsewhere[problem.status] ?? problem.message;
    $('#figures-note').hidden = false;
    hidden = problem.status in elsewhere;
    if (!problem.status) say('failed', 'not reachable');
    if (hidden && roots.size) await kindOfFirst();
    return;
  }
  for (const { labels } of all.filter((one) => one.name === 'dfastllm_model_info')) {
    if (kinds.get(labels.model_name) !== labels.model_type) {
      kinds.set(labels.model_name, labels.model_type);
      fitted();
    }
  }
  drawFigures(all);
}

// ---- The page ---------------------------------------------------------------------------------------------------

forms.chat.addEventListener('submit', ask);
forms.infill.addEventListener('submit', fill);
for (const form of Object.values(forms)) $('.stop', form).addEventListener('click', stop);
prompt.addEventListener('input', fit);
prompt.addEventListener('keydown', (event) => {
  // Enter that ends a composition, of Japanese say, sends nothing.
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) ask(event);
});
document.addEventListener('keydown', (event) => { if (event.key === 'Escape') stop(); });
$('#fresh').addEventListener('click', anew);
$('#more').addEventListener('click', () => part('', 8));
$('#model').addEventListener('change', fitted);
$('#settings').addEventListener('submit', (event) => event.preventDefault());
$('#key-form').addEventListener('submit', (event) => event.preventDefault());
$('#key').value = key.get();
$('#key').addEventListener('change', () => {
  key.set($('#key').value.trim());
  hidden = false;
  models();
});
for (const choice of $$('input[name=mode]')) {
  choice.addEventListener('change', () => {
    [$('#chat').hidden, $('#infill').hidden] = [mode() !== 'chat', mode() !== 'infill'];
    $('#fresh').hidden = mode() !== 'chat' || talk.childElementCount === 0;
    fitted();
  });
}
part('Once upon a time there was a little robot who', 0);
part(' and then they were friends.', 24);
$('#settings-card').open = matchMedia('(min-width: 60rem)').matches;
busy(false);
await models();
await figures();
setInterval(figures, 1000);
document.addEventListener('visibilitychange', figures);
prompt.focus({ preventScroll: true });
