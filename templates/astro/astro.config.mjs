import { defineConfig } from "astro/config";

export default defineConfig({
  // Every page is made at build time; nothing runs on a server.
  output: "static",
});
