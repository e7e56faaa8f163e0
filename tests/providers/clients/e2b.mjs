// Drives npm's `e2b` against the test server, as its documentation says, and prints what it saw as JSON.
import { Sandbox } from 'e2b';

const connection = {
  apiKey: process.env.TEST_KEY,
  apiUrl: process.env.TEST_URL,
  sandboxUrl: process.env.TEST_URL,
  validateApiKey: false,
};
const metadata = { 'libra-installation': 'official', 'libra-sandbox': 'official.1' };
const sandbox = await Sandbox.create('t', { ...connection, metadata, timeoutMs: 1_800_000 });
await sandbox.files.makeDir('libra/work');
const twice = await sandbox.files.makeDir('libra/work');
const work = (await sandbox.files.getInfo('libra/work')).path;
const written = await sandbox.files.write([
  { path: `${work}/a.txt`, data: 'one' },
  { path: `${work}/deep/größe.txt`, data: 'two' },
]);
const pieces = [];
const ran = await sandbox.commands.run('cat a.txt deep/*; echo $WORD >&2; sleep 0', {
  cwd: work,
  envs: { WORD: 'from-env' },
  timeoutMs: 60_000,
  onStdout: (text) => pieces.push(text),
});
let failed;
try {
  await sandbox.commands.run('exit 3', { cwd: work });
} catch (e) {
  failed = e.exitCode;
}
const running = await sandbox.commands.run('echo up; exec sleep 1000', { cwd: work, background: true });
const listed = await sandbox.commands.list();
const again = await sandbox.commands.connect(running.pid);
const killed = await sandbox.commands.kill(running.pid);
let signal;
for (const handle of [running, again]) {
  try {
    await handle.wait();
  } catch (e) {
    signal = e.message ?? String(e);
  }
}
const text = await sandbox.files.read(`${work}/a.txt`);
const there = await sandbox.files.exists(`${work}/a.txt`);
const missing = await sandbox.files.exists(`${work}/nothing`);
const connected = await Sandbox.connect(sandbox.sandboxId, { ...connection, timeoutMs: 1_800_000 });
const still = await connected.files.read(`${work}/deep/größe.txt`);
const found = [];
const pages = Sandbox.list({ ...connection, query: { metadata: { 'libra-installation': 'official' } }, limit: 100 });
while (pages.hasNext) found.push(...(await pages.nextItems()).map((s) => s.metadata['libra-sandbox']));
const gone = await sandbox.kill();
let refused;
try {
  await Sandbox.create('t', { ...connection, apiKey: 'wrong' });
} catch (e) {
  refused = e.name;
}
console.log(
  JSON.stringify({
    twice, written: written.length, stdout: ran.stdout, stderr: ran.stderr, code: ran.exitCode, pieces: pieces.join(''),
    failed, listed: listed.length, killed, signal: Boolean(signal), text, there, missing, still, found, gone, refused,
  }),
);
