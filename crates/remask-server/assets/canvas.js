// A canvas: the positions of an answer, and what each step made of them. It can be watched while it is being
// unmasked, and played again.

/** Special tokens, which are no text. */
const SPECIAL = /^<\|.*\|>$|^<\/?s>$|^<(eos|pad|mask)>$/;

const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`;

/** The grade of a probability, for the five colours. */
const grade = (p) => [0.3, 0.5, 0.7, 0.9].filter((mark) => p >= mark).length;

/** One place for all canvases: what is under the pointer, or chosen with the arrow keys. */
const tip = document.querySelector('#tip');

export class Canvas {
  /** A canvas of `holes` positions, or of as many as steps tell of. `given` are texts in between, by position. */
  constructor(holes = 0, given = new Map()) {
    this.root = document.createElement('span');
    this.root.className = 'cells';
    this.root.tabIndex = 0;
    this.root.setAttribute('role', 'group');
    this.root.setAttribute('aria-label', 'The answer, token by token; arrow keys tell of each');
    this.spans = [];
    this.cells = [];
    this.steps = [];
    this.shown = 0;
    this.given = given;
    this.least = holes;
    this.current = -1;
    this.reset();
    this.root.addEventListener('pointerover', (event) => this.point(this.spans.indexOf(event.target)));
    this.root.addEventListener('pointerout', () => this.point(-1));
    this.root.addEventListener('blur', () => this.point(-1));
    this.root.addEventListener('keydown', (event) => this.key(event));
  }

  reset() {
    this.cells = [];
    this.block = null;
    this.grow(this.least);
  }

  grow(count) {
    for (let pos = this.cells.length; pos < count; pos += 1) {
      const text = this.given.get(pos);
      this.cells.push(text === undefined ? { kind: 'hole' } : { kind: 'given', token: text });
    }
  }

  /** Takes a step's event. */
  add(step) {
    this.steps.push(step);
    this.apply(step);
    this.shown = this.steps.length;
    this.draw(step);
  }

  apply(step) {
    const positions = [...step.committed, ...step.provisional, ...step.revised].map((token) => token.pos + 1);
    this.grow(Math.max(step.block[1], ...positions, ...step.padded.map((pos) => pos + 1), 0));
    this.block = step.block;
    for (const token of step.provisional) {
      // What was masked again says so until it is decided.
      const { kind, again, was } = this.cells[token.pos];
      this.cells[token.pos] = { kind: 'open', again: again || kind === 'again', was, ...token };
    }
    for (const token of step.committed) {
      const { entropy, depth, again, kind, was } = this.cells[token.pos];
      const revised = again || kind === 'again' ? (was ?? true) : undefined;
      this.cells[token.pos] = { kind: 'done', pass: step.step, entropy, depth, revised, ...token };
    }
    for (const token of step.revised) {
      const before = this.cells[token.pos];
      this.cells[token.pos] = { kind: 'done', revised: before.token ?? true, pass: step.step, ...token };
    }
    for (const pos of step.remasked) {
      const before = this.cells[pos];
      this.cells[pos] = { kind: 'again', was: before.token, pass: step.step };
    }
    for (const pos of step.padded) this.cells[pos] = { kind: 'padded' };
  }

  /** Shows the canvas as it was after so many steps. */
  show(count) {
    this.reset();
    this.shown = Math.max(0, Math.min(count, this.steps.length));
    for (const step of this.steps.slice(0, this.shown)) this.apply(step);
    this.draw(this.steps[this.shown - 1]);
  }

  /** The answer has ended after so many tokens: what lies behind them is no part of it. */
  end(tokens) {
    this.tokens = tokens;
    this.root.classList.add('ended');
    this.draw();
  }

  /** The text of what is decided. */
  text() {
    const part = (cell) => (cell.kind === 'given' || (cell.kind === 'done' && !SPECIAL.test(cell.token)) ? cell.token : '');
    return this.cells.slice(0, this.tokens ?? this.cells.length).map(part).join('');
  }

  draw(step) {
    const fresh = new Set([...(step?.committed ?? []), ...(step?.revised ?? [])].map((token) => token.pos));
    while (this.spans.length > this.cells.length) this.spans.pop().remove();
    this.cells.forEach((cell, pos) => {
      const span = (this.spans[pos] ??= this.root.appendChild(document.createElement('span')));
      const over = this.shown === this.steps.length && this.tokens !== undefined && pos >= this.tokens;
      const classes = [cell.kind];
      if (cell.p !== undefined) classes.push(`g${grade(cell.p)}`);
      if (cell.revised) classes.push('revised');
      if (cell.kind === 'open' && cell.again) classes.push('reopened');
      if (SPECIAL.test(cell.token ?? '')) classes.push('special');
      if (fresh.has(pos)) classes.push('fresh');
      if (pos === this.current) classes.push('current');
      const name = classes.join(' ');
      if (span.className !== name) span.className = name;
      span.hidden = over || cell.kind === 'padded';
      const text = this.face(cell);
      if (span.textContent !== text) span.textContent = text;
    });
  }

  face(cell) {
    if (cell.token === undefined || cell.kind === 'again') return '';
    const special = SPECIAL.test(cell.token);
    if (special) return /end|eot|eos|\/s/.test(cell.token) ? 'end' : cell.token.replace(/^<\|?|\|?>$/g, '');
    // A line end that is only supposed would tear the text apart.
    return cell.kind === 'open' ? cell.token.replaceAll('\n', '↵') : cell.token;
  }

  /** Tells of a position. */
  point(pos) {
    const [before, span, cell] = [this.spans[this.current], this.spans[pos], this.cells[pos]];
    before?.classList.remove('current');
    const shown = span && cell.kind !== 'given';
    this.current = shown ? pos : -1;
    tip.hidden = !shown;
    if (!shown) return;
    span.classList.add('current');
    tip.textContent = this.words(cell, pos);
    const [box, most] = [span.getBoundingClientRect(), document.documentElement.clientWidth];
    const left = Math.max(8, Math.min(box.left, most - tip.offsetWidth - 8));
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
  }

  words(cell, pos) {
    const words = [];
    if (cell.token !== undefined && cell.kind !== 'padded') words.push(JSON.stringify(cell.token));
    if (cell.p !== undefined) words.push(`p ${percent(cell.p)}`);
    if (cell.entropy !== undefined) words.push(`entropy ${cell.entropy.toFixed(2)} nats`);
    if (cell.depth !== undefined) words.push(`depth ${cell.depth}`);
    if (cell.kind === 'done') words.push(cell.revised ? `revised in pass ${cell.pass + 1}` : `committed in pass ${cell.pass + 1}`);
    if (typeof cell.revised === 'string') words.push(`was ${JSON.stringify(cell.revised)}`);
    if (cell.kind === 'open') words.push(cell.again ? 'masked again, provisional' : 'provisional');
    if (cell.kind === 'again') words.push(`masked again in pass ${cell.pass + 1}${cell.was ? `, was ${JSON.stringify(cell.was)}` : ''}`);
    if (cell.kind === 'hole') words.push('a hole');
    return `${pos + 1}: ${words.join(' · ')}`;
  }

  key(event) {
    const visible = [...this.spans.keys()].filter((pos) => !this.spans[pos].hidden && this.cells[pos].kind !== 'given');
    if (visible.length === 0) return;
    const at = visible.indexOf(this.current);
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: visible.length - 1 };
    if (event.key === 'Escape') {
      this.point(-1);
    } else if (event.key in moves) {
      event.preventDefault();
      this.point(visible[Math.max(0, Math.min(moves[event.key], visible.length - 1))]);
    }
  }
}
