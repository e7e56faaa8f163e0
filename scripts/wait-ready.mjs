// Waits until the server with the given pid says where it listens and answers /readyz.
// Ends with 0 when ready and 3 after the time is up; whether the server died is the caller's to see.
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

const [dataDir, pid] = process.argv.slice(2)
const deadline = Date.now() + 120_000

function operatorAddress() {
  try {
    const server = JSON.parse(readFileSync(`${dataDir}/server.json`, 'utf8'))
    // A file left by an earlier server names an earlier pid.
    if (String(server.pid) !== pid) return null
    const address = [server.operator_listen].flat()[0]
    return address.includes('://') ? address : `http://${address}`
  } catch {
    return null
  }
}

async function isReady(address) {
  try {
    const answer = await fetch(`${address}/readyz`, { signal: AbortSignal.timeout(2_000) })
    return answer.ok
  } catch {
    return false
  }
}

while (Date.now() < deadline) {
  const address = operatorAddress()
  if (address && (await isReady(address))) process.exit(0)
  await pause(100)
}
process.exit(3)
