// Runs one command of a build. Its arguments and variables come from a file of their own, which is gone
// before the command begins: a session takes a line for a shell, and neither belongs into one.
import { spawn } from 'node:child_process';
import { readFileSync, unlinkSync } from 'node:fs';
import { constants } from 'node:os';

const file = new URL(`./orders/${process.argv[2]}.json`, import.meta.url);
const { argv, env, directory } = JSON.parse(readFileSync(file, 'utf8'));
unlinkSync(file);
const child = spawn(argv[0], argv.slice(1), {
  cwd: directory,
  env: { ...process.env, ...env },
  stdio: ['ignore', 'inherit', 'inherit'],
});
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM']) process.on(signal, () => child.kill('SIGKILL'));
child.on('error', () => {
  console.error(`libra: \`${argv[0]}\` can't be run in this sandbox`);
  process.exitCode = 127;
});
child.on('exit', (code, signal) => {
  process.exitCode = code ?? 128 + constants.signals[signal];
});
