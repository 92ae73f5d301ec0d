// The map of a generation: one line a pass, one cell a position. Cells that were computed are lit, those
// that were decided stand out; what stays dark is compute that was saved.

import type { Step } from '@remask/web';

/** Draws the map of `steps` up to `shown`, and marks that pass. Answers the height of a line in CSS pixels. */
export function drawRowMap(canvas: HTMLCanvasElement, steps: Step[], shown: number, from: number): void {
  const passes = Math.max(steps.length - 1, 1);
  const width = canvas.clientWidth;
  const line = Math.max(3, Math.min(8, Math.floor(160 / passes)));
  const height = passes * line;
  const ratio = devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  const first = steps[0];
  if (!context || !first || width === 0) return;
  context.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const [empty, prompt, lit, decided] = ['--map-empty', '--map-given', '--map-lit', '--accent'].map(color);
  const cell = width / first.positions.length;
  const gap = cell > 4 ? 1 : 0;
  for (let pass = 1; pass < steps.length; pass++) {
    const step = steps[pass];
    if (!step) continue;
    const now = new Set(step.decided);
    context.globalAlpha = pass <= shown ? 1 : 0.3;
    step.positions.forEach((position, at) => {
      context.fillStyle = (now.has(at) ? decided : position.computed ? (at < from ? prompt : lit) : empty) ?? '';
      context.fillRect(at * cell, (pass - 1) * line, cell - gap, line - 1);
    });
  }
}

/** The pass under a point of the map. */
export function passAt(canvas: HTMLCanvasElement, y: number, passes: number): number {
  const bounds = canvas.getBoundingClientRect();
  return Math.min(passes, Math.max(1, Math.ceil(((y - bounds.top) / bounds.height) * passes)));
}
