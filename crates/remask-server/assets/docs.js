// The documentation: openapi.json, made readable. Everything is set as text.

import { base } from './server.js';

function make(tag, classes = '', ...inside) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...inside);
  return element;
}

/** A text, whose parts between backticks are code. */
function prose(tag, classes, text = '') {
  const parts = text.split('`').map((part, i) => (i % 2 ? make('code', '', part) : part));
  return make(tag, classes, ...parts);
}

let spec;
const resolve = (schema) => (schema?.$ref ? spec.components[schema.$ref.split('/')[2]][schema.$ref.split('/')[3]] : schema);
const nameOf = (schema) => schema?.$ref?.split('/').at(-1);
const isNull = (schema) => schema.type === 'null' || schema.const === null;

/** The alternatives of a schema, without null, which is as good as left out. */
const alternatives = (schema) => (schema.anyOf ?? schema.oneOf ?? []).filter((one) => !isNull(one));

/** Properties of a schema and of all that it is made of, with the names of those that are required. */
function properties(given) {
  const schema = resolve(given) ?? {};
  const found = { fields: { ...schema.properties }, required: new Set(schema.required) };
  for (const part of schema.allOf ?? []) {
    const inner = properties(part);
    Object.assign(found.fields, inner.fields);
    inner.required.forEach((name) => found.required.add(name));
  }
  return found;
}

const value = (it) => (typeof it === 'string' ? `"${it}"` : JSON.stringify(it));

/** A schema's type in few words. */
function type(schema) {
  if (nameOf(schema)) return nameOf(schema);
  const others = alternatives(schema);
  if (others.length) return others.map(type).join(' or ');
  if (schema.const !== undefined) return value(schema.const);
  if (schema.enum) return schema.enum.filter((one) => one !== null).map(value).join(' | ') || 'null';
  const types = [schema.type].flat().filter((one) => one && one !== 'null');
  const words = types.map((one) => {
    if (one === 'array' && schema.items) return `list of ${type(schema.items)}`;
    if (one === 'object' && schema.additionalProperties?.type) return `map to ${type(schema.additionalProperties)}`;
    return one;
  });
  return words.join(' or ') || 'null';
}

function limits(schema) {
  const [least, above, most] = [schema.minimum, schema.exclusiveMinimum, schema.maximum];
  const words = [];
  if (least !== undefined && most !== undefined) words.push(`${least} to ${most}`);
  else if (above !== undefined) words.push(`above ${above}${most === undefined ? '' : ` to ${most}`}`);
  else if (least !== undefined) words.push(`at least ${least}`);
  else if (most !== undefined) words.push(`at most ${most}`);
  if (schema.maxItems) words.push(`at most ${schema.maxItems}`);
  if (schema.default !== undefined) words.push(`default ${value(schema.default)}`);
  for (const example of schema.examples ?? []) words.push(`e.g. ${value(example)}`);
  return words;
}

/** What stands inside a field's value: its object, or that of its alternatives or items. */
function inside(schema) {
  const around = [schema, ...alternatives(schema), ...(schema.items ? [schema.items, ...alternatives(schema.items)] : [])];
  return around.find((one) => Object.keys(properties(one).fields).length > 0);
}

/** A list of fields. Those of objects inside are folded. What is required is said of what is sent. */
function fields(schema, sent, depth = 0) {
  const { fields: all, required } = properties(schema);
  const list = make('dl', 'fields');
  for (const [name, field] of Object.entries(all)) {
    const head = make('dt', '', make('code', 'name', name), make('span', 'type', type(field)));
    if (sent && required.has(name)) head.append(make('span', 'required', 'required'));
    for (const limit of limits(field)) head.append(make('span', 'limit', limit));
    const body = make('dd');
    const text = field.description ?? resolve(field).description;
    if (text) body.append(prose('p', '', text));
    const inner = inside(field);
    if (inner && depth < 4) {
      const count = Object.keys(properties(inner).fields).length;
      body.append(make('details', '', make('summary', '', `${count} ${count === 1 ? 'field' : 'fields'}`), fields(inner, sent, depth + 1)));
    }
    list.append(head, body);
  }
  return list;
}

/** A schema as a block: its fields, its alternatives, or its type. */
function block(schema, sent = false) {
  const known = resolve(schema);
  const others = alternatives(known);
  if (Object.keys(properties(schema).fields).length) return fields(schema, sent);
  if (others.length) return make('div', 'fields', ...others.map((one) => fields(one, sent)));
  return make('p', 'note', type(schema));
}

/** A request as a command line, with a button that copies it. */
function curl(path, method, operation) {
  const example = operation.requestBody?.content['application/json'].example;
  const url = new URL(path.slice(1).replace('{id}', method === 'get' && path.includes('models') ? 'default' : 'ID').replace('{name}', 'page.css'), base);
  const open = (operation.security ?? spec.security).length === 0;
  const lines = [`curl ${method === 'get' || example ? '' : `-X ${method.toUpperCase()} `}${url}`];
  if (!open) lines.push(`-H "Authorization: Bearer $REMASK_API_KEY"`);
  if (example) lines.push(`-H 'Content-Type: application/json'`, `-d '${JSON.stringify(example).replaceAll("'", `'\\''`)}'`);
  const text = lines.join(' \\\n  ');
  const copy = make('button', 'quiet small', 'Copy');
  copy.type = 'button';
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(text).then(() => { copy.textContent = 'Copied'; }, () => { copy.textContent = 'Select it'; });
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
  return make('div', 'shell', make('pre', '', text), copy);
}

function responses(operation) {
  const list = make('div', 'responses');
  for (const [status, given] of Object.entries(operation.responses)) {
    const answer = resolve(given);
    const content = Object.entries(answer.content ?? {});
    const summary = make('summary', '', make('code', status < '400' ? 'status good' : 'status', status), prose('span', '', answer.description));
    if (!content.length && !answer.headers) {
      list.append(make('p', 'bare', ...summary.childNodes));
      continue;
    }
    const parts = [];
    for (const [name, header] of Object.entries(answer.headers ?? {})) {
      parts.push(make('p', 'note', make('code', '', name), ' ', prose('span', '', resolve(header).description)));
    }
    for (const [kind, { schema, example }] of content) {
      parts.push(make('h4', '', kind));
      if (schema.description) parts.push(prose('p', 'note', schema.description));
      parts.push(example ? make('pre', '', JSON.stringify(example, null, 2)) : block(schema));
    }
    list.append(make('details', '', summary, ...parts));
  }
  return list;
}

function operation(path, method, it, shared) {
  const section = make('section', 'operation');
  section.id = it.operationId;
  section.append(
    make('h3', '', make('span', `method ${method}`, method.toUpperCase()), make('code', '', path)),
    make('p', 'summary', it.summary),
  );
  if (it.description) section.append(prose('p', 'about', it.description));
  if ((it.security ?? spec.security).length === 0) section.append(make('p', 'note', 'Open: it needs no key.'));
  section.append(curl(path, method, it));
  const parameters = [...(shared ?? []), ...(it.parameters ?? [])].map(resolve);
  if (parameters.length) {
    const list = make('dl', 'fields');
    for (const { name, in: where, schema, description } of parameters) {
      list.append(make('dt', '', make('code', 'name', name), make('span', 'type', type(schema)), make('span', 'limit', `in the ${where}`)), make('dd', '', prose('p', '', description)));
    }
    section.append(make('h4', '', 'Parameters'), list);
  }
  if (it.requestBody) {
    const { schema } = it.requestBody.content['application/json'];
    section.append(make('h4', '', 'Body'), block(schema, true));
  }
  section.append(make('h4', '', 'Answers'), responses(it));
  return section;
}

function show() {
  const [main, contents] = [document.querySelector('#doc'), document.querySelector('#contents')];
  const title = make('div', 'title', make('h2', '', `${spec.info.title} API`, make('small', '', spec.info.version)), prose('p', 'lead', spec.info.summary), prose('p', '', spec.info.description));
  main.replaceChildren(title);
  const schemes = Object.values(spec.components.securitySchemes).map((scheme) => prose('p', 'note', scheme.description));
  title.append(...schemes);
  for (const tag of spec.tags) {
    const id = `tag-${tag.name}`;
    const head = make('div', 'tag', make('h2', '', tag.name), prose('p', '', tag.description));
    head.id = id;
    main.append(head);
    const links = make('ul');
    for (const [path, item] of Object.entries(spec.paths)) {
      for (const [method, it] of Object.entries(item)) {
        if (!it.tags?.includes(tag.name)) continue;
        main.append(operation(path, method, it, item.parameters));
        const link = make('a', '', make('span', `method ${method}`, method.toUpperCase()), ' ', path);
        link.href = `#${it.operationId}`;
        links.append(make('li', '', link));
      }
    }
    contents.append(make('h2', '', tag.name), links);
  }
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

try {
  const [document_, page] = await Promise.all([fetch(new URL('openapi.json', base)), fetch(new URL('playground', base), { method: 'HEAD' })]);
  spec = await document_.json();
  document.querySelector('#to-playground').hidden = !page.ok;
  show();
} catch (problem) {
  document.querySelector('#loading').textContent = `openapi.json cannot be read: ${problem.message}`;
}
