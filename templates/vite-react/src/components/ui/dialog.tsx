import { useEffect, useId, useRef, type ReactNode } from "react";

import { Button } from "./button";

type DialogProps = { open: boolean; onClose: () => void; title: string; children: ReactNode };

/** The browser's own modal dialog: it traps the focus, closes on Escape and gives the focus back. */
export function Dialog({ open, onClose, title, children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const heading = useId();

  useEffect(() => {
    const dialog = ref.current;
    if (open && !dialog?.open) dialog?.showModal();
    if (!open && dialog?.open) dialog.close();
  }, [open]);

  return (
    <dialog
      ref={ref}
      aria-labelledby={heading}
      onClose={onClose}
      onClick={(event) => event.target === ref.current && onClose()}
      className="m-auto w-[min(28rem,calc(100%-2rem))] rounded-2xl border border-line bg-raised p-0 text-ink backdrop:bg-black/50"
    >
      <div className="p-6">
        <h2 id={heading} className="text-xl font-semibold">
          {title}
        </h2>
        <div className="mt-3 text-soft">{children}</div>
        <div className="mt-6 flex justify-end">
          <Button onClick={onClose}>Close</Button>
        </div>
      </div>
    </dialog>
  );
}
