// One run: the canvas as it is being unmasked, a slider to replay it, the map of what was computed, and
// the figures.

import type { EngineStats, Generation, Position, Result, Step } from '@remask/web';
import { drawRowMap, passAt } from './row-map.ts';

/** What the colours of tokens mean. */
export type Shade = 'confidence' | 'depth' | 'pass';

const TEMPLATE = `
  <header><h2></h2><span class="state" aria-live="polite"></span></header>
  <p class="text" aria-label="Canvas"></p>
  <div class="replay" hidden>
    <button type="button" class="icon play" aria-label="Play"><svg viewBox="0 0 24 24" aria-hidden="true"><path/></svg></button>
    <input type="range" min="0" max="0" value="0" step="1" aria-label="Pass" />
    <output></output>
  </div>
  <figure class="map" hidden>
    <canvas role="img"></canvas>
    <figcaption><span><i class="lit"></i>computed</span><span><i class="decided"></i>decided</span><span><i class="saved"></i>left alone</span><span class="axis">passes downwards</span></figcaption>
  </figure>
  <dl class="figures"></dl>
  <p class="notes" hidden></p>
`;

/** What special tokens look like, and those that stand before a turn of a conversation. */
const SPECIAL = /^<\|(.*)\|>$/;
const HEADER = /header|role|im_start/;

const PLAY = 'M8 5v14l11-7z';
const PAUSE = 'M7 5h4v14H7zM13 5h4v14h-4z';

function need<T extends Element>(root: ParentNode, selector: string): T {
  const found = root.querySelector<T>(selector);
  if (!found) throw new Error(`the page lacks ${selector}`);
  return found;
}

const count = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });
const mebibytes = (bytes: number) => `${short.format(bytes / 2 ** 20)} MiB`;
const time = (ms: number) => (ms < 1000 ? `${Math.round(ms)} ms` : `${short.format(ms / 1000)} s`);

/** Numbers 0 to 4 for the five colours of a scale. */
function grade(position: Position, shade: Shade, passes: number): number {
  if (shade === 'confidence') return [0.3, 0.5, 0.7, 0.9].filter((mark) => position.probability >= mark).length;
  if (shade === 'depth') return Math.min(4, Math.max(0, position.depth - 1));
  return Math.min(4, Math.floor((((position.decidedAt ?? passes) - 1) / Math.max(passes, 1)) * 5));
}

/** A run on the page. */
export class RunView {
  readonly root = document.createElement('article');
  private readonly text: HTMLElement;
  private readonly slider: HTMLInputElement;
  private readonly steps: Step[] = [];
  private readonly spans: HTMLElement[] = [];
  private result: Result | null = null;
  private shown = 0;
  private following = true;
  private timer = 0;
  private drawing = 0;
  shade: Shade = 'confidence';

  constructor(
    readonly label: string,
    private readonly stats: () => EngineStats,
  ) {
    this.root.className = 'run';
    this.root.innerHTML = TEMPLATE;
    need<HTMLElement>(this.root, 'h2').textContent = label;
    this.text = need(this.root, '.text');
    this.slider = need(this.root, 'input[type=range]');
    this.slider.addEventListener('input', () => this.show(Number(this.slider.value)));
    need<HTMLElement>(this.root, '.play').addEventListener('click', () => this.toggle());
    const map = need<HTMLCanvasElement>(this.root, '.map canvas');
    map.addEventListener('click', (event) => this.show(passAt(map, event.clientY, this.last)));
    new ResizeObserver(() => this.drawMap()).observe(map);
    this.state('waiting');
  }

  private get last(): number {
    return Math.max(0, this.steps.length - 1);
  }

  /** Shows a generation while it runs. Rejects as its result does. */
  async follow(generation: Generation): Promise<Result> {
    try {
      for await (const step of generation) this.add(step);
      this.result = await generation.result;
      const { finishReason, devicesLost, notes } = this.result;
      this.state(finishReason === 'stop' ? 'answered' : 'complete');
      const said = devicesLost > 0 ? ['The device was lost; a new one went on from the same canvas.', ...notes] : notes;
      const list = need<HTMLElement>(this.root, '.notes');
      list.hidden = said.length === 0;
      list.textContent = said.join(' ');
      this.figures();
      return this.result;
    } catch (error) {
      this.state(error instanceof DOMException && error.name === 'AbortError' ? 'stopped' : 'failed');
      throw error;
    } finally {
      this.root.classList.remove('busy');
    }
  }

  private state(word: string): void {
    need<HTMLElement>(this.root, '.state').textContent = word;
    this.root.dataset.state = word;
  }

  private add(step: Step): void {
    this.steps.push(step);
    this.root.classList.add('busy');
    this.state(step.pass === 0 ? 'first pass' : `pass ${step.pass}`);
    need<HTMLElement>(this.root, '.replay').hidden = this.steps.length < 2;
    need<HTMLElement>(this.root, '.map').hidden = this.steps.length < 2;
    this.slider.max = String(this.last);
    if (this.following) this.show(this.last);
    else this.drawMap();
    this.figures();
  }

  /** Steps by some passes. */
  move(by: number): void {
    this.pause();
    this.show(this.shown + by);
  }

  /** Plays the run again from where it stands, or pauses. */
  toggle(): void {
    if (this.timer) {
      this.pause();
      return;
    }
    if (this.steps.length < 2) return;
    if (this.shown >= this.last) this.show(0);
    need(this.root, '.play path').setAttribute('d', PAUSE);
    need(this.root, '.play').setAttribute('aria-label', 'Pause');
    // A whole replay takes about six seconds, whatever the run took.
    const pace = Math.min(700, Math.max(60, 6000 / this.last));
    this.timer = window.setInterval(() => {
      this.show(this.shown + 1);
      if (this.shown >= this.last) this.pause();
    }, pace);
  }

  private pause(): void {
    clearInterval(this.timer);
    this.timer = 0;
    need(this.root, '.play path').setAttribute('d', PLAY);
    need(this.root, '.play').setAttribute('aria-label', 'Play');
  }

  /** Shows the canvas after a pass. */
  show(pass: number): void {
    this.shown = Math.min(this.last, Math.max(0, pass));
    this.following = this.shown === this.last;
    this.slider.value = String(this.shown);
    if (!this.timer) need(this.root, '.play path').setAttribute('d', PLAY);
    need<HTMLElement>(this.root, 'output').textContent = `${this.shown} / ${this.last}`;
    this.slider.setAttribute('aria-valuetext', `pass ${this.shown} of ${this.last}`);
    const step = this.steps[this.shown];
    if (step) this.draw(step);
    this.drawMap();
  }

  /** Draws the canvas of a step; spans are kept from step to step, so that changes can be animated. */
  private draw(step: Step): void {
    const fresh = new Set(step.decided);
    while (this.spans.length < step.positions.length) {
      const span = document.createElement('span');
      span.dataset.at = String(this.spans.length);
      this.spans.push(span);
      this.text.append(span);
    }
    // Where gaps may have several lengths, the last step's text can be shorter than those before it.
    for (const span of this.spans.splice(step.positions.length)) span.remove();
    const end = step.positions.findIndex((p) => p.state === 'decided' && p.stop);
    const answer = step.positions.findIndex((p) => p.state !== 'given');
    const chat = step.positions.some((p) => p.state === 'given' && HEADER.test(p.text));
    step.positions.forEach((position, at) => {
      const span = this.spans[at];
      if (!span) return;
      const over = position.state !== 'given' && end >= 0 && at >= end;
      const special = position.state === 'given' && SPECIAL.test(position.text);
      const words: string[] = [position.state];
      if (position.state === 'decided' || position.state === 'proposed') words.push(`g${grade(position, this.shade, this.last)}`);
      if (fresh.has(at)) words.push('fresh');
      if (over || (position.stop && position.state !== 'given')) words.push('over');
      if (special) words.push('special');
      if (chat && at === answer) words.push('answer');
      const name = words.join(' ');
      if (span.className !== name) span.className = name;
      const text = over || (position.stop && position.state !== 'given') ? '·' : shown(position, special);
      if (span.textContent !== text) span.textContent = text;
    });
    this.text.dataset.shade = this.shade;
    this.text.dataset.text = step.text;
  }

  private drawMap(): void {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => {
      const map = need<HTMLCanvasElement>(this.root, '.map canvas');
      const from = this.steps[0]?.positions.findIndex((p) => p.state !== 'given') ?? 0;
      drawRowMap(map, this.steps, this.shown, from);
      const step = this.steps[this.last];
      if (step) map.setAttribute('aria-label', `${step.rowsComputed} rows computed in ${this.last} passes`);
    });
  }

  /** What a position is, for the tip. */
  describe(at: number): string[] | null {
    const position = this.steps[this.shown]?.positions[at];
    if (!position) return null;
    const lines = [`${JSON.stringify(position.text)} · id ${position.id}`];
    if (position.state === 'given') return [...lines, 'given'];
    if (position.state === 'hole') return ['still masked', `position ${at}`];
    lines.push(`${position.state === 'decided' ? 'decided' : 'proposed'} with probability ${position.probability.toFixed(3)}`);
    const when = position.decidedAt ? `in pass ${position.decidedAt}, ` : '';
    lines.push(`${when}computed ${position.depth} ${position.depth === 1 ? 'time' : 'times'}`);
    return lines;
  }

  /** Colours tokens by something else. */
  recolour(shade: Shade): void {
    this.shade = shade;
    this.show(this.shown);
  }

  private figures(): void {
    const step = this.steps[this.last];
    if (!step || step.pass === 0) return;
    const done = this.result;
    const decided = done?.decidedTokens ?? step.positions.filter((p) => p.state === 'decided').length;
    const milliseconds = done?.milliseconds ?? step.milliseconds;
    const first = this.steps[1]?.milliseconds ?? 0;
    const each = done?.millisecondsPerPass ?? (this.last > 1 ? (step.milliseconds - first) / (this.last - 1) : step.passMilliseconds);
    const saved = 1 - step.rowsComputed / Math.max(step.rowsOfFullCompute, 1);
    const stats = this.stats();
    const rows: [name: string, value: string, help: string, share?: number][] = [
      ['passes', count.format(done?.forwardPasses ?? step.pass), 'forward passes'],
      [
        'rows computed',
        `${count.format(step.rowsComputed)} <small>of ${count.format(step.rowsOfFullCompute)}</small>`,
        `full compute would have been ${step.rowsOfFullCompute} rows in as many passes; ${Math.round(saved * 100)} percent saved`,
        1 - saved,
      ],
      ['tokens', `${decided} <small>${short.format(decided / Math.max(milliseconds / 1000, 1e-9))} a second</small>`, 'tokens decided'],
      ['a pass', time(each), 'mean, without the first, which compiles'],
      ['in all', time(milliseconds), 'from the request to its end'],
      ['memory', `${mebibytes(stats.weightBytes)} <small>+ ${mebibytes(stats.wasmBytes)}</small>`, 'weights on the device, and the tab\'s own'],
    ];
    need<HTMLElement>(this.root, '.figures').innerHTML = rows
      .map(
        ([name, value, help, share]) =>
          `<div title="${help}"><dt>${name}</dt><dd>${value}</dd>${share === undefined ? '' : `<i class="share" style="--share:${share.toFixed(3)}"></i>`}</div>`,
      )
      .join('');
  }
}

/** A token's text as the canvas shows it. Line breaks of what was given are marks: templates have many. */
function shown(position: Position, special: boolean): string {
  if (position.state === 'given' && /^\s*\n\s*$/.test(position.text)) return ' ';
  if (position.state === 'hole') return '\u2007\u2007\u2007';
  if (special) return position.text.replace(SPECIAL, '$1');
  return position.text === '' ? '\u2007' : position.text;
}
