import { useState } from 'react'
import scales from './assets/scales.svg?no-inline'

const steps = ['validate', 'sync', 'sandbox', 'build', 'deploy', 'cleanup']

export default function App() {
  const [count, setCount] = useState(0)

  return (
    <main>
      <img src={scales} width="96" height="96" alt="A pair of scales" />
      <h1>Deployed by Libra</h1>
      <p>
        This page was built from source in a sandbox and put live on <code>{window.location.host}</code>.
      </p>
      <ol>
        {steps.map((step) => (
          <li key={step}>{step}</li>
        ))}
      </ol>
      <button type="button" onClick={() => setCount((before) => before + 1)}>
        Counted {count} {count === 1 ? 'time' : 'times'}
      </button>
    </main>
  )
}
