#!/usr/bin/env node
// Writes manifest.json into a model folder: the size and SHA-256 of every file that the engine loads, so
// that browsers verify what they download. Usage: remask-manifest FOLDER...
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const wanted = /^(config\.json|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|.*\.safetensors)$/;

const folders = process.argv.slice(2);
if (folders.length === 0) {
  console.error('usage: remask-manifest FOLDER...');
  process.exit(2);
}
for (const folder of folders) {
  const files = {};
  for (const name of (await readdir(folder)).filter((name) => wanted.test(name)).sort()) {
    const path = join(folder, name);
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(path)) hash.update(chunk);
    files[name] = { bytes: (await stat(path)).size, sha256: hash.digest('hex') };
  }
  if (!files['config.json']) {
    console.error(`${folder} has no config.json: it is no model folder`);
    process.exit(1);
  }
  await writeFile(join(folder, 'manifest.json'), `${JSON.stringify({ files }, null, 2)}\n`);
  console.log(`${join(folder, 'manifest.json')}: ${Object.keys(files).length} files`);
}
