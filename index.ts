import { siteOfStack } from "./components/site-of-stack.ts";

export const { site, nodes, waivers } = siteOfStack().summary;
