import type { Metadata } from "next";
import Link from "next/link";
import type { ReactNode } from "react";
import "./globals.css";

export const metadata: Metadata = { title: "Bench", description: "A small site for measurements" };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>
        <nav>
          <Link href="/">Start</Link> <Link href="/about">About</Link> <Link href="/notes/one">Notes</Link>
        </nav>
        <main>{children}</main>
      </body>
    </html>
  );
}
