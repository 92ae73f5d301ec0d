// The page: a prompt, one or two runs of it, and their settings. It uses nothing but the package's public
// API.

import '@fontsource-variable/inter/wght.css';
import '@fontsource-variable/source-serif-4/wght.css';
import './style.css';
import { Engine, RemaskError, type Generation, type GenerateOptions, type Progress } from '@remask/web';
import { RunView, type Shade } from './run-view.ts';
import { DEFAULTS, asOptions, panel, summary, type Settings } from './settings.ts';

const BUNDLED = new URL('./models/tales-33m/', document.baseURI).href;

const find = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const prompt = find<HTMLTextAreaElement>('prompt');
const stage = find('stage');
const dialog = find<HTMLDialogElement>('models');

type Mode = 'ask' | 'continue' | 'fill';
const EXAMPLES: Record<Mode, { text: string; hint: string }> = {
  ask: { text: 'Why should we share our toys?', hint: 'The bundled model, 33 million parameters, answers simple questions and tells stories.' },
  continue: { text: 'Once upon a time there was a little fox who', hint: 'The text goes on from where you stop.' },
  fill: { text: 'Lily had a red __. One day she lost it in the __, and she was very _.', hint: 'Every _ is one masked token. [MASK:1-3] is a gap of as many as fit best.' },
};

let engine: Engine | null = null;
let loading: AbortController | null = null;
let running: AbortController | null = null;
let views: RunView[] = [];
let shade: Shade = 'confidence';
const settings: [Settings, Settings] = [{ ...DEFAULTS }, { ...DEFAULTS, rule: 'threshold', freeTail: true, mor: true }];
let source: string | File[] = new URLSearchParams(location.search).get('model') ?? BUNDLED;

const mode = () => document.querySelector<HTMLInputElement>('input[name=mode]:checked')?.value as Mode;
const comparing = () => find<HTMLInputElement>('compare').checked;

// --- loading ---------------------------------------------------------------------------------------

const PHASES = { download: 'Downloading', read: 'Reading', upload: 'Moving to the GPU', ready: 'Ready' };

function showProgress({ phase, file, loaded, total, fromCache }: Progress): void {
  const mebi = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  const share = total > 0 ? loaded / total : 0;
  find('load-bar').style.width = `${(100 * (phase === 'upload' ? 0.8 + 0.2 * share : 0.8 * share)).toFixed(1)}%`;
  const kept = fromCache > 0 ? ', kept from last time' : '';
  find('load-text').textContent = `${PHASES[phase]} ${file} ${mebi(loaded)} of ${mebi(total)} MiB${kept}`.replace(/ +/g, ' ');
}

async function load(): Promise<void> {
  loading?.abort();
  running?.abort();
  engine?.dispose();
  engine = null;
  const mine = (loading = new AbortController());
  document.body.dataset.engine = 'loading';
  find('loading').hidden = false;
  find('problem').hidden = true;
  find<HTMLButtonElement>('run').disabled = true;
  find('model-name').textContent = 'loading';
  try {
    const made = await Engine.load(source, { signal: mine.signal, onProgress: showProgress });
    engine = made;
    find('loading').hidden = true;
    find<HTMLButtonElement>('run').disabled = false;
    const name = typeof source === 'string' ? (source.replace(/\/+$/, '').split('/').at(-1) ?? 'model') : 'your files';
    find('model-name').textContent = `${name} on ${made.info.device.name}`;
    facts();
    document.body.dataset.engine = 'ready';
  } catch (error) {
    if (mine.signal.aborted) return;
    find('loading').hidden = true;
    find('model-name').textContent = 'no model';
    document.body.dataset.engine = 'failed';
    problem(error);
  }
}

function problem(error: unknown): void {
  const known = error instanceof RemaskError;
  const titles: Record<string, string> = {
    'no-webgpu': 'WebGPU is not available here',
    download: 'The model did not arrive',
    model: 'This model cannot be used',
    'out-of-memory': 'Out of memory',
    'device-lost': 'The GPU went away',
    limits: 'This GPU is too small for the model',
    request: 'That cannot be run',
  };
  find('problem-title').textContent = (known && titles[error.kind]) || 'Something went wrong';
  const text = error instanceof Error ? error.message : String(error);
  const said = known && error.fix ? text.slice(0, -error.fix.length).trim() : text;
  find('problem-text').textContent = said.charAt(0).toUpperCase() + said.slice(1);
  find('problem-fix').textContent = known ? error.fix : '';
  find('retry').hidden = known && error.kind === 'request';
  find('other-model').hidden = known && error.kind !== 'model' && error.kind !== 'download' && error.kind !== 'limits';
  find('problem').hidden = false;
}

function facts(): void {
  if (!engine) return;
  const { model, device, weights, weightBytes, verified, cached, loadMilliseconds } = engine.info;
  const rows = [
    ['from', model.origin],
    ['kind', `${model.architecture}, ${model.layers} layers of ${model.hidden}`],
    ['tokens', `${model.vocabulary} known, ${model.maxPositions} positions`],
    ['weights', `${weights}, ${(weightBytes / 2 ** 20).toFixed(1)} MiB`],
    ['device', device.name],
    ['load', `${(loadMilliseconds / 1000).toFixed(2)} s, ${verified ? 'verified by hash' : 'no hashes to verify'}, ${cached ? 'kept' : 'not kept'}`],
  ];
  find('facts').replaceChildren(
    ...rows.flatMap(([name, value]) => [
      Object.assign(document.createElement('dt'), { textContent: name }),
      Object.assign(document.createElement('dd'), { textContent: value }),
    ]),
  );
}

// --- running ---------------------------------------------------------------------------------------

/** The text with its gaps as the engine writes them: each run of underscores is a gap of as many tokens. */
function gaps(text: string): string {
  return text.replace(/_+/g, (run) => `[MASK:${run.length}]`);
}

function start(made: Engine, chosen: Settings, signal: AbortSignal): Generation {
  const text = prompt.value;
  const options: GenerateOptions = { ...asOptions(chosen, mode() === 'fill'), signal };
  if (mode() === 'fill') return made.fill(gaps(text), options);
  return made.generate(mode() === 'ask' ? text : { raw: text }, options);
}

async function run(): Promise<void> {
  if (!engine || running) return;
  if (mode() === 'fill' && !/_|\[MASK/.test(prompt.value)) {
    find('hint').textContent = 'There is no gap: write _ for every token that is to be filled in.';
    return;
  }
  const made = engine;
  const mine = (running = new AbortController());
  find('problem').hidden = true;
  find('run').hidden = true;
  find('stop').hidden = false;
  document.body.dataset.run = 'running';
  const chosen = comparing() ? settings : [settings[0]];
  views = chosen.map((each, at) => {
    const view = new RunView(comparing() ? `${'AB'[at]}: ${summary(each)}` : summary(each), () => made.stats);
    view.shade = shade;
    return view;
  });
  const legend = legendOf();
  const both = document.createElement('div');
  both.className = 'runs';
  both.append(...views.map((view) => view.root));
  stage.replaceChildren(legend, both);
  try {
    // The engine takes one at a time; both are asked for at once.
    const started = chosen.map((each) => start(made, each, mine.signal));
    const ends = await Promise.allSettled(started.map((generation, at) => views[at]?.follow(generation)));
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed && !mine.signal.aborted) problem(failed.reason);
    document.body.dataset.run = mine.signal.aborted ? 'stopped' : failed ? 'failed' : 'done';
  } finally {
    running = null;
    find('run').hidden = false;
    find('stop').hidden = true;
  }
}

function legendOf(): HTMLElement {
  const legend = document.createElement('div');
  legend.className = 'legend';
  const ends: Record<Shade, [string, string]> = {
    confidence: ['unsure', 'sure'],
    depth: ['once', '5 times or more'],
    pass: ['early', 'late'],
  };
  legend.innerHTML = `
    <div class="shades" role="radiogroup" aria-label="Colour by">
      ${(['confidence', 'depth', 'pass'] as const)
        .map((name) => `<label><input type="radio" name="shade" value="${name}" ${name === shade ? 'checked' : ''} /><span>${name}</span></label>`)
        .join('')}
    </div>
    <div class="scale" data-shade="${shade}"><span></span>${[0, 1, 2, 3, 4].map((g) => `<i class="g${g}"></i>`).join('')}<span></span></div>
    <div class="kinds"><span class="kind hole">\u2007\u2007</span> masked <span class="kind proposed g3">proposed</span> <span class="kind decided g3">decided</span></div>`;
  const paint = () => {
    const [low, high] = legend.querySelectorAll('.scale span');
    if (low && high) [low.textContent, high.textContent] = ends[shade];
    legend.querySelector('.scale')?.setAttribute('data-shade', shade);
  };
  legend.addEventListener('change', (event) => {
    shade = (event.target as HTMLInputElement).value as Shade;
    for (const view of views) view.recolour(shade);
    paint();
  });
  paint();
  return legend;
}

// --- the form and the keyboard ---------------------------------------------------------------------

function showSettings(): void {
  const aside = find('settings');
  const names = comparing() ? ['A', 'B'] : [''];
  aside.replaceChildren();
  names.forEach((name, at) => {
    const details = document.createElement('details');
    details.open = matchMedia('(min-width: 60rem)').matches;
    const title = document.createElement('summary');
    const body = document.createElement('div');
    const mine = settings[at as 0 | 1];
    panel(body, `set${name}`, mine, () => {
      title.innerHTML = `<b>${name === '' ? 'Settings' : name}</b> <span>${summary(mine)}</span>`;
    });
    details.append(title, body);
    aside.append(details);
  });
}

function setMode(): void {
  const { text, hint } = EXAMPLES[mode()];
  if (Object.values(EXAMPLES).some((example) => example.text === prompt.value) || prompt.value === '') prompt.value = text;
  find('hint').textContent = hint;
  grow();
}

function grow(): void {
  prompt.style.height = 'auto';
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

find('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  void run();
});
find('stop').addEventListener('click', () => running?.abort());
for (const radio of document.querySelectorAll('input[name=mode]')) radio.addEventListener('change', setMode);
find('compare').addEventListener('change', showSettings);
prompt.addEventListener('input', grow);
prompt.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    void run();
  }
});
document.addEventListener('keydown', (event) => {
  if (dialog.open) return;
  if (event.key === 'Escape') running?.abort();
  const typing = event.target instanceof HTMLElement && event.target.matches('input, select, textarea, button, summary');
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by !== undefined) for (const view of views) view.move(by);
  else if (event.key === ' ') for (const view of views) view.toggle();
  else return;
  event.preventDefault();
});

find('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  localStorage.setItem('theme', root.dataset.theme);
  for (const view of views) view.recolour(shade);
});

// The map of rows is no matter of style sheets.
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const view of views) view.recolour(shade);
});

find('model').addEventListener('click', () => dialog.showModal());
find('other-model').addEventListener('click', () => dialog.showModal());
find('retry').addEventListener('click', () => (engine ? void run() : void load()));
find('load-url').addEventListener('click', (event) => {
  const url = find<HTMLInputElement>('model-url').value.trim();
  if (url === '') {
    event.preventDefault();
    return;
  }
  source = url;
  void load();
});
find<HTMLInputElement>('model-files').addEventListener('change', ({ target }) => {
  const files = (target as HTMLInputElement).files;
  if (!files?.length) return;
  dialog.close();
  source = [...files];
  void load();
});

// --- what a token is, under the pointer ------------------------------------------------------------

const tip = find('tip');
function point(event: Event): void {
  const span = event.target instanceof HTMLElement ? event.target.closest<HTMLElement>('.text > span') : null;
  const view = views.find((each) => span && each.root.contains(span));
  const lines = span && view?.describe(Number(span.dataset.at));
  tip.hidden = !lines;
  if (!span || !lines) return;
  tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement('div'), { textContent: line })));
  const box = span.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left), innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${box.bottom + 6 + scrollY}px`;
}
stage.addEventListener('pointerover', point);
stage.addEventListener('pointerleave', () => (tip.hidden = true));
stage.addEventListener('click', point);

setMode();
showSettings();
stage.innerHTML = `<p class="empty">A masked canvas, a few passes, a text: nothing is written from left to right. Press <b>Unmask</b>.</p>`;
void load();
if ('serviceWorker' in navigator && import.meta.env.PROD) {
  // Without it the page works all the same, with a network.
  navigator.serviceWorker.register('./sw.js').catch(() => {});
}
