import HMM
