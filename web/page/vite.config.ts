import { defineConfig } from 'vite';

export default defineConfig({
  // Relative, so that the built page works from any folder of any server.
  base: './',
  worker: { format: 'es' },
  build: { target: 'es2022', assetsInlineLimit: 0, chunkSizeWarningLimit: 4000 },
  optimizeDeps: { exclude: ['@remask/web'] },
});
