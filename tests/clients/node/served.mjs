// Servers for tests: the built binary with the model inside it, on the CPU and on loopback.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export const MODEL = 'tales-33m';
export const KEY = 'sesame';

// Starts a server; `stop` ends it.
export async function serve(...options) {
    const line = ['serve', '--port', '0', '--backend', 'cpu', '--shutdown-delay', '0', ...options];
    const child = spawn(process.env.REMASK_BINARY, line, { stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = once(child, 'exit');
    let url;
    const log = [];
    await new Promise((ready, failed) => {
        createInterface({ input: child.stderr }).on('line', (text) => {
            log.push(text);
            url ??= text.match(/^listening: (http:\/\/\S+)/)?.[1];
            if (text.startsWith('ready: ')) ready();
        });
        ended.then(() => failed(new Error(`the server has ended: ${log.join('\n')}`)));
    });
    return {
        url,
        base: `${url}/v1`,
        async stop() {
            child.kill('SIGINT');
            await ended;
        },
        // The sum of a metric's series whose labels hold `labels`.
        async metric(name, labels = '') {
            const text = await (await fetch(`${url}/metrics`)).text();
            const series = text.split('\n').filter((one) => one.startsWith(`${name}{`) && one.includes(labels));
            return series.reduce((sum, one) => sum + Number(one.slice(one.lastIndexOf(' '))), 0);
        },
    };
}

export async function until(what) {
    for (let i = 0; i < 1000; i++) {
        if (await what()) return;
        await new Promise((then) => setTimeout(then, 10));
    }
    throw new Error('it has not happened');
}
