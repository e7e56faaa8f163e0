import type { ComponentProps } from "react";

import { cn } from "../../lib/cn";

const looks = {
  solid: "border-accent bg-accent text-on-accent hover:opacity-90",
  outline: "border-line bg-raised text-ink hover:border-accent",
  ghost: "border-transparent bg-transparent text-soft hover:text-ink",
};

type ButtonProps = ComponentProps<"button"> & { look?: keyof typeof looks };

export function Button({ look = "solid", type = "button", className, ...rest }: ButtonProps) {
  return (
    <button
      type={type}
      className={cn(
        "inline-flex items-center gap-2 rounded-xl border px-4 py-2 font-medium transition",
        "cursor-pointer disabled:cursor-not-allowed disabled:opacity-50",
        looks[look],
        className,
      )}
      {...rest}
    />
  );
}
