import type { DebPackage, PackagedFile } from "../../../../cli/image/deb.ts";

/** A 64-bit little-endian ELF file that needs libraries, and a dynamic linker if it is a program. */
export function elfFile(needed: readonly string[], interpreter?: string): Buffer {
  const bytes = Buffer.alloc(4096);
  bytes.writeUInt32BE(0x7f454c46, 0);
  bytes.writeUInt8(2, 4);
  bytes.writeUInt8(1, 5);
  bytes.writeBigUInt64LE(64n, 0x20);
  bytes.writeUInt16LE(56, 0x36);
  bytes.writeUInt16LE(3, 0x38);
  const segment = (index: number, type: number, offset: number, size: number): void => {
    const at = 64 + index * 56;
    bytes.writeUInt32LE(type, at);
    bytes.writeBigUInt64LE(BigInt(offset), at + 8);
    // Loaded elsewhere than where it lies in the file, as real ones are.
    bytes.writeBigUInt64LE(BigInt(offset + 0x10000), at + 16);
    bytes.writeBigUInt64LE(BigInt(size), at + 32);
  };
  const strings = 2048;
  let at = strings + 1;
  const entries = needed.map((name) => {
    const offset = at - strings;
    at += bytes.write(`${name}\0`, at, "latin1");
    return [1n, BigInt(offset)] as const;
  });
  const dynamic = [...entries, [5n, BigInt(strings + 0x10000)] as const, [0n, 0n] as const];
  dynamic.forEach(([tag, value], index) => {
    bytes.writeBigUInt64LE(tag, 1024 + index * 16);
    bytes.writeBigUInt64LE(value, 1024 + index * 16 + 8);
  });
  segment(0, 1, 0, 4096);
  segment(1, 2, 1024, dynamic.length * 16);
  if (interpreter !== undefined) {
    bytes.write(`${interpreter}\0`, 512, "latin1");
    segment(2, 3, 512, interpreter.length + 1);
  }
  return bytes;
}

/** A package: texts are files, `-> TARGET` is a symbolic link. It has a copyright of its own unless it says otherwise. */
export function packageOf(
  name: string,
  files: Readonly<Record<string, Buffer | string>>,
  fields: Readonly<Record<string, string>> = {},
): DebPackage {
  const all = { [`/usr/share/doc/${name}/copyright`]: `${name} is free`, ...files };
  const entries = Object.entries(all).map(([path, content]): [string, PackagedFile] => {
    const target = typeof content === "string" ? /^-> (.*)$/.exec(content)?.[1] : undefined;
    const mode = path.includes("/bin/") ? 0o755 : 0o644;
    return [
      path,
      {
        from: name,
        mode,
        content: target === undefined ? { bytes: Buffer.from(content) } : { linkTo: target },
      },
    ];
  });
  return {
    fields: new Map(
      Object.entries({ Package: name, Version: "1.0-1", Architecture: "amd64", Maintainer: "M", ...fields }),
    ),
    files: new Map(entries),
  };
}

const lib = "/usr/lib/x86_64-linux-gnu";

/** A small server with a plug-in, as Debian's packages lie: links, a copyright that is another package's, things that nobody needs. */
export const serverPackages = (): readonly DebPackage[] => [
  packageOf(
    "server",
    {
      "/usr/bin/server": elfFile(["libserver.so.1", "libc.so.6"], "/lib64/ld.so"),
      "/usr/bin/other-program": elfFile(["libunused.so.1"]),
      [`${lib}/server/plug-a.so`]: elfFile(["libplug.so.2"]),
      "/usr/share/man/server.1": "manual",
    },
    { Depends: "libserver1 (>= 1.0), libc6 | libc", Homepage: "https://server.example/" },
  ),
  packageOf("libserver1", {
    [`${lib}/libserver.so.1`]: "-> libserver.so.1.0",
    [`${lib}/libserver.so.1.0`]: elfFile(["libc.so.6"]),
    "/usr/share/doc/libserver1": "-> base-doc",
    "/usr/share/doc/libserver1/copyright": "-> nowhere, and never looked at",
  }),
  packageOf("base-doc", {
    "/usr/share/doc/base-doc/copyright": "see /usr/share/common-licenses/GPL-3.",
  }),
  packageOf("libplug2", { [`${lib}/libplug.so.2`]: elfFile([]) }),
  packageOf("libc6", {
    [`${lib}/libc.so.6`]: elfFile([]),
    [`${lib}/ld.so`]: elfFile([]),
    "/usr/lib64/ld.so": "-> ../lib/x86_64-linux-gnu/ld.so",
  }),
  packageOf("base-files", {
    "/lib64": "-> usr/lib64",
    "/etc/os-release": "-> ../usr/lib/os-release",
    "/usr/lib/os-release": "ID=debian\n",
    "/usr/share/common-licenses/GPL-3": "the licence",
    "/usr/share/common-licenses/Artistic": "another licence",
  }),
  packageOf("dash", { "/usr/bin/sh": elfFile(["libc.so.6"], "/lib64/ld.so") }),
];

export const serverRecipe = {
  name: "server",
  title: "a server",
  suite: "sid",
  packages: ["server", "base-files"],
  versionOf: "server",
  program: "/usr/bin/server",
  plugins: /^\/usr\/lib\/[^/]+\/server\/plug-[^/]+\.so$/,
  files: ["/etc/os-release"],
  folders: ["/proc", "/run/inference", "/tmp"],
} as const;
