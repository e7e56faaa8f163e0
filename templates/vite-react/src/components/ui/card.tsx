import type { ComponentProps, ReactNode } from "react";

import { cn } from "../../lib/cn";

type CardProps = Omit<ComponentProps<"section">, "title"> & { title: string; icon?: ReactNode };

export function Card({ title, icon, className, children, ...rest }: CardProps) {
  return (
    <section className={cn("rounded-2xl border border-line bg-raised p-6 shadow-sm", className)} {...rest}>
      <h3 className="flex items-center gap-2 text-lg font-semibold">
        {icon && <span aria-hidden="true">{icon}</span>}
        {title}
      </h3>
      <div className="mt-2 text-soft">{children}</div>
    </section>
  );
}
