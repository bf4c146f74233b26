"""Filterbanks as matrices: numbers -> matrix. No other file of the project knows one of these formulas."""

import numpy as np

EAR_Q, MIN_BANDWIDTH_HZ = 9.26449, 24.7  # Glasberg and Moore's ERB, as Slaney and Ellis use it


def hann(win_length):
    """-> (win_length,) float64 periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)


def hz_to_mel(hz, scale="slaney"):
    """Slaney's scale: linear below 1 kHz (15 mel), logarithmic above (27 steps per factor 6.4). Or HTK's, P1's eq."""
    hz = np.asarray(hz, float)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def mel_to_hz(mel, scale="slaney"):
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, float)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def mel_edges(n_bands, fmin, fmax, scale="slaney"):
    """-> (n_bands + 2,) frequencies in Hz, evenly spaced in mel: band k rises from edge k to k + 1 and falls to k + 2."""
    return mel_to_hz(np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), n_bands + 2), scale)


def mel_centers(n_bands, fmin, fmax, scale="slaney"):
    """-> (n_bands,) centre frequencies in Hz, ascending."""
    return mel_edges(n_bands, fmin, fmax, scale)[1:-1]


def mel_weights(sr, n_fft, n_bands, fmin, fmax, scale="slaney"):
    """-> (n_bands, 1 + n_fft // 2) triangles of equal area for a power spectrum; equals librosa's Slaney-normed bank."""
    edges_hz = mel_edges(n_bands, fmin, fmax, scale)
    bins_hz = np.arange(1 + n_fft // 2) * sr / n_fft
    left, center, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - left) / (center - left), (right - bins_hz) / (right - center)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def gammatone_centers(n_bands, fmin, fmax):
    """-> (n_bands,) centre frequencies in Hz, ascending, evenly spaced on the ERB scale; the first is fmin."""
    c = EAR_Q * MIN_BANDWIDTH_HZ
    k = np.arange(n_bands, 0, -1) / n_bands
    return -c + np.exp(k * (np.log(fmin + c) - np.log(fmax + c))) * (fmax + c)


def gammatone_weights(sr, n_fft, n_bands, fmin, fmax):
    """-> (n_bands, 1 + n_fft // 2) magnitudes of fourth-order gammatone filters at the FFT's bins, for a MAGNITUDE spectrum.

    Ellis, "Gammatone-like spectrograms" (2009), after Slaney (1993): poles at r exp(+-j theta), four real zeros.
    """
    centers = gammatone_centers(n_bands, fmin, fmax)[:, None]
    bandwidth = 1.019 * 2 * np.pi * (centers / EAR_Q + MIN_BANDWIDTH_HZ)
    theta, r = 2 * np.pi * centers / sr, np.exp(-bandwidth / sr)
    spread = np.sqrt(3 + np.array([1, 1, -1, -1]) * 2**1.5) * np.array([1, -1, 1, -1])
    zeros = r * (np.cos(theta) + spread * np.sin(theta))  # (n_bands, 4)
    pole = r * np.exp(1j * theta)

    def magnitude(u):
        """|H| at points u of the unit circle, (n_bands, points)."""
        over = np.prod(np.abs(u[:, None, :] - zeros[:, :, None]), axis=1)
        return over * np.abs((pole - u) * (pole.conj() - u)) ** -4.0

    circle = np.exp(2j * np.pi * np.arange(1 + n_fft // 2) / n_fft)[None]
    return magnitude(circle) / magnitude(np.exp(1j * theta))  # gain 1 at each centre


def dct_matrix(n_coefs, n_mels):
    """-> (n_coefs, n_mels) orthonormal DCT-II: log-mel bands -> MFCC, as librosa.feature.mfcc."""
    k, n = np.arange(n_coefs)[:, None], np.arange(n_mels)
    basis = np.sqrt(2 / n_mels) * np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels))
    basis[0] /= np.sqrt(2)
    return basis


def smooth_split(weights, span, order, tolerance):
    """(n_bands, n_bins) positive weights -> near, far, basis: the same product from fewer numbers, for smooth weights.

    Bins are cut into runs of `span`. Where a polynomial of `order` coefficients meets a band's weights in a run, each
    within `tolerance` of itself, its coefficients stand in `far`; elsewhere the weights themselves stand in `near`.
    basis (span, order) gives a run's moments; far (n_bands, runs * order + bins behind the last whole run).

        x @ weights.T  =  x @ near.T + concatenate([moments of x, bins of x behind the last whole run]) @ far.T
    """
    n_bands, n_bins = weights.shape
    n_whole = n_bins // span * span
    at = (np.arange(span) + 0.5) / span * 2 - 1
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(at, order - 1))
    runs = weights[:, :n_whole].reshape(n_bands, -1, span)
    coefficients = runs @ basis
    is_met = np.all(np.abs(coefficients @ basis.T - runs) <= tolerance * runs, axis=2)[:, :, None]
    near = np.zeros(weights.shape)
    near[:, :n_whole] = np.where(is_met, 0, runs).reshape(n_bands, -1)
    far = np.where(is_met, coefficients, 0).reshape(n_bands, -1)
    return near, np.concatenate([far, weights[:, n_whole:]], axis=1), basis


def cqt_centers(n_bands, fmin, bins_per_octave):
    """-> (n_bands,) centre frequencies in Hz, ascending."""
    return fmin * 2.0 ** (np.arange(n_bands) / bins_per_octave)


def cqt_quality(bins_per_octave):
    """Periods of the centre frequency in a kernel: 1 / relative bandwidth."""
    step = 2.0 ** (2 / bins_per_octave)
    return (step + 1) / (step - 1)


def cqt_kernels(sr, centers_hz, bins_per_octave, decimation=1):
    """-> (n_fft, 2 * len(centers_hz)) real and imaginary columns that take n_fft samples around a frame to its CQT.

    `sr` is the recording's rate, the kernels run at sr / decimation; row n_fft // 2 sits on the frame's centre.
    Scaled as librosa.cqt (norm 1, scale=True): a full-scale sine has magnitude sqrt(kernel length at sr) / 2.
    librosa multiplies spectra of the kernel and keeps non-negative frequencies only; so do we, at sparsity 0.
    """
    rate = sr / decimation
    lengths = cqt_quality(bins_per_octave) * rate / np.asarray(centers_hz)
    n_fft = 2 ** int(np.ceil(np.log2(lengths.max())))
    kernels = []
    for length, center_hz in zip(lengths, centers_hz):
        n = np.arange(-length // 2, length // 2)
        wavelet = hann(len(n)) * np.exp(2j * np.pi * center_hz / rate * n)
        wavelet /= np.abs(wavelet).sum()
        padded = np.zeros(n_fft, complex)
        start = (n_fft - len(n)) // 2
        padded[start : start + len(n)] = wavelet
        spectrum = np.fft.fft(padded)
        spectrum[n_fft // 2 + 1 :] = 0
        kernels.append(np.fft.fft(spectrum) / n_fft * np.sqrt(length * decimation))
    kernel = np.stack(kernels, axis=1)  # (n_fft, bands); dropping the negative half left tails beyond the window
    return np.concatenate([kernel.real, kernel.imag], axis=1)


def halving_filter():
    """-> (383,) low-pass of gain 1 before a 2:1 decimation: flat to 0.913 of the new Nyquist, -120 dB from it on.

    The taps of soxr's HQ, which librosa.cqt halves with: a sinc under a Kaiser window, its three numbers fitted to the
    impulse response of soxr.resample(x, 2, 1) to 4e-8. Any other filter differs by decibels in the cells just below an
    octave's end, whose kernels still hear the filter's transition.
    """
    cutoff, beta, half_width = 0.478436, 13.0401, 194.5  # cycles per two samples; Kaiser's shape; samples
    n = np.arange(-191, 192)
    taps = cutoff * np.sinc(cutoff * n) * np.i0(beta * np.sqrt(1 - (n / half_width) ** 2))
    return taps / taps.sum()
