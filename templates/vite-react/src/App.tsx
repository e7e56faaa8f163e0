import { useState } from "react";

import { Button } from "./components/ui/button";
import { Card } from "./components/ui/card";
import { Dialog } from "./components/ui/dialog";
import { Tabs } from "./components/ui/tabs";

const tabs = [
  { id: "edit", label: "Edit", content: <p>Begin in <code>src/App.tsx</code>. The page follows as you save.</p> },
  { id: "style", label: "Style", content: <p>Seven colours in <code>src/index.css</code> carry light and dark.</p> },
  { id: "ship", label: "Ship", content: <p>Deploy the folder. It is built from its lockfile, the same each time.</p> },
];

export function App() {
  const [open, setOpen] = useState(false);
  const [count, setCount] = useState(0);

  return (
    <div className="mx-auto w-[min(68rem,100%-2.5rem)]">
      <header className="flex items-center justify-between py-6">
        <span className="flex items-center gap-3 font-semibold">
          <img src="/favicon.svg" alt="" className="size-7" />
          React start
        </span>
        <Button look="ghost" onClick={() => setOpen(true)}>
          About
        </Button>
      </header>

      <main>
        <section className="py-16 sm:py-24">
          <p className="font-semibold text-accent">React · TypeScript · Tailwind</p>
          <h1 className="mt-4 max-w-[15ch] text-5xl font-bold tracking-tight text-balance sm:text-7xl">
            Begin with parts that already fit.
          </h1>
          <p className="mt-6 max-w-[46ch] text-xl text-soft">
            Buttons, cards, tabs and a dialog of your own: small files, typed, and usable from the keyboard.
          </p>
          <div className="mt-8 flex flex-wrap gap-3">
            <Button onClick={() => setCount((n) => n + 1)}>Clicked {count} times</Button>
            <Button look="outline" onClick={() => setOpen(true)}>
              Open a dialog
            </Button>
          </div>
        </section>

        <section aria-label="What is inside" className="grid gap-4 sm:grid-cols-3">
          <Card title="Yours" icon="◆">
            The components are files of this project. Change them as you like.
          </Card>
          <Card title="Accessible" icon="◎">
            Roles, focus and keys as the platform means them, with no library between.
          </Card>
          <Card title="Light and dark" icon="◐">
            Follows the system. Every colour is named once.
          </Card>
        </section>

        <section className="py-16">
          <h2 className="mb-4 text-2xl font-semibold">Where to go from here</h2>
          <Tabs label="First steps" tabs={tabs} />
        </section>
      </main>

      <footer className="border-t border-line py-6 text-sm text-soft">Made from the vite-react template.</footer>

      <Dialog open={open} onClose={() => setOpen(false)} title="About this page">
        <p>It was made from the vite-react template: Vite, React, TypeScript and Tailwind, and nothing from elsewhere.</p>
      </Dialog>
    </div>
  );
}
