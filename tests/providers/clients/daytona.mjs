// Drives npm's `@daytonaio/sdk` against the test server, as its documentation says, and prints what it saw
// as JSON.
import { Daytona } from '@daytonaio/sdk';

const connection = { apiUrl: process.env.TEST_URL, target: 't', useDeprecatedPolling: true };
const daytona = new Daytona({ ...connection, apiKey: process.env.TEST_KEY });
const labels = { 'libra-installation': 'official', 'libra-sandbox': 'official.1' };
const sandbox = await daytona.create({
  image: 'node:24-bookworm',
  labels,
  resources: { cpu: 2, memory: 2, disk: 4 },
  autoStopInterval: 30,
  autoDeleteInterval: 0,
  ttlMinutes: 30,
});
const home = await sandbox.getWorkDir();
const work = `${home}/libra/work`;
await sandbox.fs.createFolder(work, '755');
await sandbox.fs.uploadFiles([
  { source: Buffer.from('one'), destination: `${work}/a.txt` },
  { source: Buffer.from('two'), destination: `${work}/deep/größe.txt` },
]);
await sandbox.process.createSession('official-1');
const started = await sandbox.process.executeSessionCommand('official-1', {
  command: `cat ${work}/a.txt; echo to-err >&2; exit 3`,
  runAsync: true,
  suppressInputEcho: true,
});
let stdout = '';
let stderr = '';
await sandbox.process.getSessionCommandLogs(
  'official-1',
  started.cmdId,
  (text) => (stdout += text),
  (text) => (stderr += text),
);
const command = await sandbox.process.getSessionCommand('official-1', started.cmdId);
await sandbox.process.deleteSession('official-1');
const listed = (await sandbox.fs.listFiles(work)).map((file) => [file.name, file.isDir]).sort();
const text = (await sandbox.fs.downloadFile(`${work}/a.txt`)).toString();
const again = await daytona.get(sandbox.id);
const found = [];
for await (const one of daytona.list({ labels: { 'libra-installation': 'official' }, limit: 100 })) {
  found.push(one.labels['libra-sandbox']);
}
await sandbox.delete();
let refused;
try {
  await new Daytona({ ...connection, apiKey: 'wrong' }).create({ image: 'node:24-bookworm' });
} catch (e) {
  refused = e.statusCode ?? e.message;
}
console.log(
  JSON.stringify({
    code: command.exitCode, stdout, stderr, listed, text, again: again.state, found, refused,
  }),
);
process.exit(0);
